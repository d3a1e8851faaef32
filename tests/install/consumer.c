// SPDX-License-Identifier: MIT
// The smallest user of the installed library.
#include <stdio.h>
#include <string.h>
#include <zc.h>

int main(void)
{
    char *text = zc_alloc(16);
    if (!text)
        return 1;
    strcpy(text, "installed");
    puts(text);
    zc_free(text);
    return 0;
}
