/* SPDX-License-Identifier: MIT
 *
 * zc for C++17 containers: message buffers that grow, with the promise of zc.h. Header-only; link with zc.
 *
 *     std::vector<double, zc::allocator<double>> v(n);
 *     zc_send(v.data(), v.size() * sizeof(double), dst, tag, comm);
 *     v[0] = 1; // the message stays what it was
 *
 *     std::pmr::vector<double> w(zc::resource());
 *
 * Each allocation is whole pages, so this is for large containers, not for nodes of lists and trees. All functions may
 * be called from any thread. They throw std::bad_alloc where zc.h returns NULL, and zc_errmsg() then says why. Memory
 * is never waited for when it is freed, whatever is in flight. */
#ifndef ZC_HPP
#define ZC_HPP

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <new>

#include "zc.h"

namespace zc
{

/* For containers that take an allocator by type. Stateless: all are equal. T may be aligned to 2 MiB at most. */
template <class T> struct allocator {
    using value_type = T;

    allocator() noexcept = default;
    template <class U> allocator(const allocator<U> &) noexcept {}

    /* n objects of T; std::bad_array_new_length if they are more than SIZE_MAX bytes. */
    [[nodiscard]] T *allocate(std::size_t n)
    {
        if (n > SIZE_MAX / sizeof(T))
            throw std::bad_array_new_length();
        void *p = zc_aligned_alloc(alignof(T), n * sizeof(T));
        if (!p)
            throw std::bad_alloc();
        return static_cast<T *>(p);
    }

    void deallocate(T *p, std::size_t) noexcept
    {
        zc_free(p);
    }
};

template <class T, class U> bool operator==(const allocator<T> &, const allocator<U> &) noexcept
{
    return true;
}

template <class T, class U> bool operator!=(const allocator<T> &, const allocator<U> &) noexcept
{
    return false;
}

/* What a pool's resource throws where the request is none for the pool: zc_errmsg() is not of it. */
struct too_large : std::bad_alloc {
    const char *what() const noexcept override
    {
        return "zc::memory_resource: larger than the pool's slots, or aligned to more than a page";
    }
};

/* For containers of std::pmr. Of the pools behind zc_alloc, or of one pool, which must outlive it and then serves up to
 * its slot size, aligned to a page at most, and throws too_large otherwise. Any such resource can free what another
 * allocated: all are equal (each only to itself, without RTTI). */
class memory_resource : public std::pmr::memory_resource
{
  public:
    explicit memory_resource(zc_pool *pool = nullptr) noexcept : pool_(pool)
    {
        zc_pool_stats stats{};
        stats.size = offsetof(zc_pool_stats, segments);
        if (pool_ && zc_pool_stats_get(pool_, &stats) == 0)
            slot_size_ = stats.slot_size;
    }

  private:
    void *do_allocate(std::size_t bytes, std::size_t alignment) override
    {
        if (pool_ && (bytes > slot_size_ || alignment > 4096))
            throw too_large();
        void *p = pool_ ? zc_pool_alloc(pool_) : zc_aligned_alloc(alignment, bytes);
        if (!p)
            throw std::bad_alloc();
        return p;
    }

    void do_deallocate(void *p, std::size_t, std::size_t) override
    {
        zc_free(p);
    }

    bool do_is_equal(const std::pmr::memory_resource &other) const noexcept override
    {
#ifdef __cpp_rtti
        return dynamic_cast<const memory_resource *>(&other) != nullptr;
#else
        return this == &other;
#endif
    }

    zc_pool *pool_;
    std::size_t slot_size_ = 0;
};

/* The resource of the pools behind zc_alloc, for the life of the program. */
inline memory_resource *resource() noexcept
{
    static memory_resource all;
    return &all;
}

} // namespace zc

#endif
