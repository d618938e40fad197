// Memory for weights: in huge pages where the system has them, given back all at once.
//
// A step reads every weight once. With pages of 4 KB that is a translation miss per 64 cache lines,
// and the hardware's prefetcher stops at each page's end.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace glidecape {

class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() {
    for (const Chunk& chunk : chunks_) munmap(chunk.begin, chunk.size);
  }

  // count elements, zeroed, at a cache line's begin. Throws std::bad_alloc.
  template <class T>
  T* take(int64_t count) {
    const size_t size = (count * sizeof(T) + 63) & ~size_t{63};
    if (chunks_.empty() || size > chunks_.back().size - used_) add_chunk(size);
    used_ += size;
    return reinterpret_cast<T*>(chunks_.back().begin + used_ - size);
  }

 private:
  struct Chunk {
    char* begin;
    size_t size;
  };
  static constexpr size_t kHugePage = size_t{2} << 20;
  static constexpr size_t kChunk = 16 * kHugePage;

  // What is not touched of a chunk takes no memory.
  void add_chunk(size_t at_least) {
    const size_t size = (std::max(at_least, kChunk) + 2 * kHugePage - 1) & ~(kHugePage - 1);
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE  // Linux
    madvise(memory, size, MADV_HUGEPAGE);
#endif
    chunks_.push_back({static_cast<char*>(memory), size});
    used_ = -reinterpret_cast<uintptr_t>(memory) & (kHugePage - 1);  // to a huge page's begin
  }

  std::vector<Chunk> chunks_;
  size_t used_ = 0;  // of the last chunk
};

}  // namespace glidecape
