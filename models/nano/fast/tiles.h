// A processor's matrix tiles (AMX), held for the duration of a call, and scratch memory beside
// them.
//
// Own assembly with memory clobbers: GCC 12's _tile_loadd and _tile_loadconfig have none, and drop
// or move the stores around them.
// Source: Intel's Instruction Set Extensions reference; Linux 6.1, Documentation/arch/x86/xstate.

#pragma once

#include <immintrin.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <torch/extension.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#define TL(t, p, s) asm volatile("tileloadd (%0,%1,1), %%tmm" #t::"r"(p), "r"((long)(s)) : "memory")
#define TS(t, p, s) \
  asm volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"((long)(s)) : "memory")
#define TZ(t) asm volatile("tilezero %%tmm" #t::)
#define DP(c, a, b) asm volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c::)

namespace {

typedef uint16_t bf;

struct alignas(64) TileShapes {
  uint8_t palette, start_row, unused[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
const TileShapes kShapes = {
    1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

// Eight tiles of 16 rows of 64 bytes, and no denormals, which would be slow.
struct Session {
  unsigned mode;
  Session() {
    static const bool is_permitted = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
    TORCH_CHECK(is_permitted, "the kernel does not permit matrix tiles to this process");
    mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);
    asm volatile("ldtilecfg %0" ::"m"(kShapes) : "memory");
  }
  ~Session() {
    asm volatile("tilerelease" ::: "memory");
    _mm_setcsr(mode);
  }
};

// Scratch memory of one thread, kept between calls.
struct Arena {
  static constexpr size_t kPage = 2 << 20;
  char* base = nullptr;
  size_t cap = 0, off = 0;
  ~Arena() { free(base); }
  void begin(size_t need) {
    if (need > cap) {
      free(base);
      cap = (need + kPage - 1) / kPage * kPage;
      base = (char*)aligned_alloc(kPage, cap);
      if (!base) cap = 0;
      TORCH_CHECK(base, "out of memory");
      madvise(base, cap, MADV_HUGEPAGE);
    }
    off = 0;
  }
  template <class T>
  T* get(size_t n) {
    T* p = (T*)(base + off);
    // Buffers that lie a power of two apart would share the caches' lines.
    off += (n * sizeof(T) + 63) / 64 * 64 + 192;
    TORCH_CHECK(off <= cap, "scratch overrun");
    return p;
  }
};
thread_local Arena arena;

}  // namespace
