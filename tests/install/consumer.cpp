// SPDX-License-Identifier: MIT
// A user of zc.hpp: containers in message buffers.
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>
#include <zc.hpp>

static int failures;

static void check(bool holds, const char *what)
{
    if (!holds)
        std::printf("%s: does not hold (%s)\n", what, zc_errmsg());
    failures += !holds;
}
#define CHECK(condition) check((condition), #condition)

/* What says `why`, or anything. */
template <class F> static bool throws_bad_alloc(F f, const char *why = "")
{
    try {
        f();
    } catch (const std::bad_alloc &error) {
        return std::strstr(error.what(), why) != nullptr;
    }
    return false;
}

struct alignas(1 << 16) wide {
    char bytes[1 << 16];
};

static void vectors()
{
    std::vector<double, zc::allocator<double>> v;
    for (int i = 0; i < 1000000; i++)
        v.push_back(i);
    CHECK(zc_owns(v.data()));
    for (int i = 0; i < 1000000; i++)
        if (v[i] != i)
            CHECK(v[i] == i);
    const double *data = v.data();
    auto moved = std::move(v);
    CHECK(moved.data() == data);
    auto copy = moved;
    CHECK(copy == moved && copy.data() != data);
    v = std::move(copy);
    std::thread([&moved] { decltype(moved)().swap(moved); }).join(); // freed by another thread
    CHECK(!zc_owns(data));

    std::vector<wide, zc::allocator<wide>> aligned(3);
    CHECK(reinterpret_cast<std::uintptr_t>(aligned.data()) % alignof(wide) == 0);
    CHECK(zc::allocator<int>() == zc::allocator<char>() && !(zc::allocator<int>() != zc::allocator<char>()));
    CHECK(throws_bad_alloc([] { (void)zc::allocator<double>().allocate(SIZE_MAX / 4); }));
    CHECK(throws_bad_alloc([] { (void)zc::allocator<double>().allocate(SIZE_MAX / 16); }));
    CHECK(std::allocate_shared<int>(zc::allocator<int>(), 5).operator*() == 5); // a node of another type
}

// The promise, for a vector that is sent and overwritten at once.
static void message()
{
    zc_comm *comm = nullptr;
    CHECK(zc_open("loop", nullptr, &comm) == 0);
    std::vector<int, zc::allocator<int>> out(50000, 7), in(50000);
    CHECK(zc_send(out.data(), out.size() * sizeof(int), 0, 1, comm) == 0);
    out.assign(out.size(), 8);
    CHECK(zc_recv(in.data(), in.size() * sizeof(int), 0, 1, comm, nullptr) == 0);
    CHECK(in == decltype(in)(50000, 7) && out == decltype(out)(50000, 8));
    CHECK(zc_close(comm) == 0);
}

static void resources()
{
    std::pmr::vector<std::pmr::string> words(zc::resource());
    for (int i = 0; i < 1000; i++)
        words.emplace_back("a string that is too long to be kept inside the object itself");
    CHECK(zc_owns(words.data()) && zc_owns(words[999].data()));

    zc_pool *pool = nullptr;
    zc_pool_options options = ZC_POOL_OPTIONS_INIT;
    options.slot_size = 65536;
    CHECK(zc_pool_open(&options, &pool) == 0);
    {
        zc::memory_resource of_pool(pool);
        std::pmr::vector<char> v(65536, 'x', &of_pool);
        zc_pool_stats stats = {};
        stats.size = sizeof stats;
        CHECK(zc_pool_stats_get(pool, &stats) == 0 && stats.live == 1);
        CHECK(throws_bad_alloc([&of_pool] { (void)of_pool.allocate(65537); }, "slots"));
        CHECK(throws_bad_alloc([&of_pool] { (void)of_pool.allocate(10, 8192); }, "aligned"));
        CHECK(of_pool == *zc::resource() && of_pool != *std::pmr::new_delete_resource());
    }
    CHECK(zc_pool_close(pool) == 0);
    CHECK(throws_bad_alloc([] { (void)zc::resource()->allocate(10, std::size_t(4) << 20); }));
    CHECK(throws_bad_alloc([] { (void)zc::resource()->allocate(SIZE_MAX / 2); }));
}

int main()
{
    vectors();
    message();
    resources();
    if (!failures)
        std::puts("installed");
    return failures != 0;
}
