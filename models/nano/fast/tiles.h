// A processor's matrix tiles (AMX), held for the duration of a call, and scratch memory beside
// them. Where there are none, AVX512-BF16 computes what the tiles would.
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

typedef uint16_t bf;

#ifdef __AMX_BF16__

#define TL(t, p, s) asm volatile("tileloadd (%0,%1,1), %%tmm" #t::"r"(p), "r"((long)(s)) : "memory")
#define TS(t, p, s) \
  asm volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"((long)(s)) : "memory")
#define TZ(t) asm volatile("tilezero %%tmm" #t::)
#define DP(c, a, b) asm volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c::)

namespace {

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

}  // namespace

#else

#define TL(t, p, s) tiles.load(t, p, s)
#define TS(t, p, s) tiles.store(t, p, s)
#define TZ(t) tiles.zero(t)
#define DP(c, a, b) tiles.multiply(c, a, b)

namespace {

// Eight tiles of 16 rows of 64 bytes. A tile that was loaded stays where it lies until something
// is added to it, so what was loaded must not be written to before it is used.
struct Tiles {
  alignas(64) float sums[8][16][16];
  const char* at[8];  // null: in `sums`
  long stride[8];

  inline __attribute__((always_inline)) void load(int t, const void* p, long s) {
    at[t] = (const char*)p, stride[t] = s;
  }
  inline __attribute__((always_inline)) void zero(int t) {
    at[t] = nullptr;
    for (int i = 0; i < 16; i++) _mm512_store_ps(sums[t][i], _mm512_setzero_ps());
  }
  inline __attribute__((always_inline)) void store(int t, void* p, long s) {
    for (int i = 0; i < 16; i++) _mm512_storeu_ps((char*)p + i * s, _mm512_loadu_ps(row(t, i)));
  }
  // c += a b, where b holds pairs along its rows; the 16 sums stay in registers. Most tiles lie
  // packed, and a stride that the compiler knows makes their addresses constants.
  inline __attribute__((always_inline)) void multiply(int c, int a, int b) {
    if (stride[a] == 64)
      add(c, at[a], 64, at[b], stride[b]);
    else
      add(c, at[a], stride[a], at[b], stride[b]);
  }
  inline __attribute__((always_inline)) void add(int c, const char* pa, const long sa,
                                                 const char* pb, const long sb) {
    __m512 sum[16];
    for (int i = 0; i < 16; i++) sum[i] = _mm512_loadu_ps(row(c, i));
#pragma GCC unroll 4
    for (int k = 0; k < 16; k++) {
      const __m512bh pairs = (__m512bh)_mm512_loadu_si512(pb + k * sb);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        int pair;
        __builtin_memcpy(&pair, pa + i * sa + 4 * k, 4);
        sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)_mm512_set1_epi32(pair), pairs);
      }
    }
    at[c] = nullptr;
    for (int i = 0; i < 16; i++) _mm512_store_ps(sums[c][i], sum[i]);
  }
  inline __attribute__((always_inline)) const float* row(int t, int i) const {
    return at[t] ? (const float*)(at[t] + i * stride[t]) : sums[t][i];
  }
};
thread_local Tiles tiles;

// No denormals, as with the tiles.
struct Session {
  unsigned mode;
  Session() {
    mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);
  }
  ~Session() { _mm_setcsr(mode); }
};

}  // namespace

#endif

namespace {

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
