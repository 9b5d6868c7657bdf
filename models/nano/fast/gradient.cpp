// The gradient of a linear layer's weights on matrix tiles (AMX): out += dy^T x.
//
// dy bf16 (N, M), x bf16 (N, K), out float32 (M, K), summed in float32 over all N. Blocks of 2 x 2
// tiles; packing of the next panel of dy^T stands between the steps of the present one, so that
// both go on at once. One thread: a crew of processes shares the cores.
#include <algorithm>
#include <cstring>

#include "tiles.h"

namespace {

constexpr long kPanel = 8;           // 32-steps of the sum per packed panel of dy^T
constexpr long kAhead = 2;           // prefetch distance in 32-row blocks of dy
constexpr long kWide = 2048;         // dy is copied in strips from this width on
constexpr long kPackedX = 1L << 19;  // bytes of packed x

#define PFW(p) __builtin_prefetch(p, 1, 3)  // strided stores that miss L1 are very slow otherwise
#define INL inline __attribute__((always_inline))

alignas(64) static const uint16_t kZip[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                              21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                              11, 27, 12, 28, 13, 29, 14, 30, 15, 31};

// Tiles 0..3 += A (2 tiles a step) x B (2 tiles a step); hook(s) emits other work before each step.
template <class H>
static INL void mm22(const bf* A, long lda, long stepA, long A1, const bf* B, int steps, H hook) {
  for (int s = 0; s < steps; s++) {
    hook(s);
    const bf *a = A + s * stepA, *b = B + s * 1024;
    TL(4, a, lda);
    TL(6, b, 64);
    DP(0, 4, 6);
    TL(7, b + 512, 64);
    DP(1, 4, 7);
    TL(5, a + A1, lda);
    DP(2, 5, 6);
    DP(3, 5, 7);
  }
}

// x as the right operand: panels of 32 columns, [step of 32 rows][2 tiles of 16 columns], pairs
// along the rows.
static void packX(const bf* x, long K, long n0, long N, long nbl, long k0, long nk, bf* dst) {
  const __m512i zip = _mm512_load_si512(kZip);
  for (long b = 0; b < nbl; b++) {
    long pr = 0, pc = 0;
    for (long k = 0; k < nk; k += 32) {
      const long n = n0 + b * 32, left = N - n;
      const bf* p = x + n * K + k0 + k;
      bf* o = dst + ((k >> 5) * nbl + b) * 1024;
      bf* on = k + 32 < nk ? o + nbl * 1024 : dst + (b + 1) * 1024;
      // the next 32 rows, in the order of memory
      const char* pf = (const char*)(x + (n + 32 + pr) * K + k0);
      for (int i = 0; i < 32; i++) {
        _mm_prefetch(pf + pc, _MM_HINT_T1);
        if ((pc += 64) == nk * 2) pc = 0, pr++, pf += 2 * K;
      }
      for (int i = 0; i < 16; i++, p += 2 * K) {
        PFW(on + i * 32);
        PFW(on + 512 + i * 32);
        for (int h = 0; h < 2; h++) {
          __m512i v = _mm512_setzero_si512();
          if (2 * i < left)
            v = _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i*)(p + 16 * h)));
          if (2 * i + 1 < left)
            v = _mm512_inserti64x4(v, _mm256_loadu_si256((const __m256i*)(p + K + 16 * h)), 1);
          _mm512_store_si512(o + h * 512 + i * 32, _mm512_permutexvar_epi16(zip, v));
        }
      }
    }
  }
}

// 8 columns (c) of a 32x32 block of dy, transposed: rows of 32 in the order of the rows of dy
static INL void packT8(const bf* buf, long ld, int c, bf* dst) {
  __m512i r[8], t[8], u[8];
  for (int j = 0; j < 8; j++) {
    const bf* p = buf + j * ld + c * 8;
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i*)p));
    v = _mm512_mask_broadcast_i32x4(v, 0x00f0, _mm_loadu_si128((const __m128i*)(p + 8 * ld)));
    v = _mm512_mask_broadcast_i32x4(v, 0x0f00, _mm_loadu_si128((const __m128i*)(p + 16 * ld)));
    r[j] = _mm512_mask_broadcast_i32x4(v, 0xf000, _mm_loadu_si128((const __m128i*)(p + 24 * ld)));
  }
  for (int j = 0; j < 4; j++) {
    t[j] = _mm512_unpacklo_epi16(r[2 * j], r[2 * j + 1]);      // columns 0-3, rows 2j, 2j+1
    t[4 + j] = _mm512_unpackhi_epi16(r[2 * j], r[2 * j + 1]);  // columns 4-7
  }
  for (int h = 0; h < 2; h++)
    for (int j = 0; j < 2; j++) {
      u[h * 4 + j] = _mm512_unpacklo_epi32(t[h * 4 + 2 * j], t[h * 4 + 2 * j + 1]);  // columns 0, 1
      u[h * 4 + 2 + j] =
          _mm512_unpackhi_epi32(t[h * 4 + 2 * j], t[h * 4 + 2 * j + 1]);  // columns 2, 3
    }
  bf* o = dst + (c >> 1) * 512 + (c & 1) * 256;
  for (int i = 0; i < 4; i++) {
    _mm512_store_si512(o + i * 64, _mm512_unpacklo_epi64(u[2 * i], u[2 * i + 1]));
    _mm512_store_si512(o + i * 64 + 32, _mm512_unpackhi_epi64(u[2 * i], u[2 * i + 1]));
  }
}

static void gradientOf(const bf* dy0, const bf* x, long N, long M0, long K, float* out0) {
  // With long rows dy is first copied in strips of 256 columns: 64 bytes at a time of rows at a
  // large power of two apart would neither stay in the caches nor be prefetched.
  const bool strips = M0 >= kWide;
  const long KC = K <= 1024 ? K : K % 768 == 0 ? 768 : 512;  // columns per pass
  const long maxb = std::max(1L, (KC <= 256 ? kPackedX : 1L << 20) / (2 * KC) /
                                     32);  // steps per slab (packed x: at most 1 MB)
  const long tb = (N + 31) / 32, slabs = (tb + maxb - 1) / maxb, slab = (tb + slabs - 1) / slabs;
  arena.begin(slab * 32 * (KC + (strips ? 256 : 0)) * 2 + 4 * kPanel * 1024 + 65536);
  bf* Bp = arena.get<bf>(slab * 32 * KC);
  bf* Ap[2] = {arena.get<bf>(kPanel * 1024), arena.get<bf>(kPanel * 1024)};
  alignas(64) static thread_local bf buf[2][1024];
  bf* Sp = arena.get<bf>(strips ? slab * 32 * 256 : 0);
  Session ses;
  for (long k0 = 0; k0 < K; k0 += KC) {
    const long nk = std::min(KC, K - k0), NKB = nk / 32;
    for (long b0 = 0; b0 < tb; b0 += slab) {
      const long nbl = std::min(slab, tb - b0), nsub = (nbl + kPanel - 1) / kPanel,
                 sb = (nbl + nsub - 1) / nsub;
      const long np = (nbl + sb - 1) / sb;  // panels per 32 columns of dy
      packX(x, K, b0 * 32, N, nbl, k0, nk, Bp);
      for (long m0 = 0; m0 < M0; m0 += strips ? 256 : M0) {
        const long w = strips ? std::min(256L, M0 - m0) : M0, MB = w / 32;
        const bf* dy = dy0 + b0 * 32 * M0 + m0;
        long M = M0;  // row stride of dy
        float* out = out0 + m0 * K;
        const long rows = std::min(nbl * 32, N - b0 * 32);
        if (strips) {
          for (long n = 0; n < rows; n++) {
            for (long i = 0; i < w; i += 32) {
              _mm_prefetch((const char*)(dy + (n + 8) * M0 + i), _MM_HINT_T0);
              _mm512_store_si512(Sp + n * w + i, _mm512_loadu_si512(dy + n * M0 + i));
            }
          }
          dy = Sp, M = w;
        }
        // packing of dy^T: quarters of 32x32 blocks, along the rows first
        long mb = 0, blk = 0;
        int quarter = 0;
        const bf* B = nullptr;
        long ld = 0;
        auto step = [&]() {
          const long pan = mb * np + blk / sb;
          bf* t = buf[blk & 1];  // copy of the last rows, with zeros below
          const long n = blk * 32;
          if (quarter == 0) {
            B = t, ld = 32;
            const bf* p = dy + n * M + mb * 32;
            if (n + 32 <= rows) {
              B = p, ld = M;
            } else {
              for (int i = 0; i < 32; i++)
                _mm512_store_si512(t + i * 32, n + i < rows ? _mm512_loadu_si512(p + i * M)
                                                            : _mm512_setzero_si512());
            }
          }
          {  // lines of the block a few further on
            long pb = blk + kAhead, pm = mb;
            if (pb >= nbl) pb %= nbl, pm++;
            const bf* p = dy + (pb * 32 + quarter * 8) * M + pm * 32;
            for (int i = 0; i < 8; i++) _mm_prefetch((const char*)(p + i * M), _MM_HINT_T0);
          }
          bf* ap = Ap[pan & 1] + (blk % sb) * 1024;
          for (int i = 0; i < 8; i++) PFW(ap + (quarter + 1) * 256 + i * 32);
          packT8(B, ld, quarter, ap);
          if (++quarter == 4) {
            quarter = 0;
            if (++blk == nbl) blk = 0, mb++;
          }
        };
        for (long i = 4 * std::min(sb, nbl); i > 0; i--) step();
        for (long m = 0; m < MB; m++)
          for (long s = 0; s < np; s++) {
            const long f = s * sb, cnt = std::min(sb, nbl - f);
            const bf* A = Ap[(m * np + s) & 1];
            long todo = 0;  // quarters of the next panel
            if (s + 1 < np)
              todo = 4 * std::min(sb, nbl - (f + sb));
            else if (m + 1 < MB)
              todo = 4 * std::min(sb, nbl);
            const long each = (todo + NKB - 1) / NKB;
            for (long kb = 0; kb < NKB; kb++) {
              float* o = out + m * 32 * K + k0 + kb * 32;
              TL(0, o, K * 4);
              TL(1, o + 16, K * 4);
              TL(2, o + 16 * K, K * 4);
              TL(3, o + 16 * K + 16, K * 4);
              const float* on = kb + 1 < NKB ? o + 32
                                : s + 1 < np ? o - (NKB - 1) * 32
                                             : o + 32 * K - (NKB - 1) * 32;
              long q = std::min(each, todo);
              todo -= q;
              const long q0 = q;
              long due = 0;  // quarters spread evenly over the steps
              mm22(A, 64, 1024, 512, Bp + (kb * nbl + f) * 1024, (int)cnt, [&](int i) {
                if (i < 8)
                  for (int j = 0; j < 4; j++) {
                    PFW(on + (i * 4 + j) * K);
                    PFW(on + (i * 4 + j) * K + 16);
                  }
                for (due += q0; due >= cnt && q > 0; due -= cnt) step(), q--;
              });
              while (q > 0) step(), q--;
              TS(0, o, K * 4);
              TS(1, o + 16, K * 4);
              TS(2, o + 16 * K, K * 4);
              TS(3, o + 16 * K + 16, K * 4);
            }
          }
      }
    }
  }
}

static at::Tensor fix(const at::Tensor& x, at::ScalarType t, const char* name) {
  TORCH_CHECK(x.device().is_cpu() && x.scalar_type() == t && x.dim() == 2, name,
              ": expected a 2-d CPU tensor of type ", t);
  return x.contiguous();
}
static void sizes(long M, long K) {
  TORCH_CHECK(M > 0 && K > 0 && M % 64 == 0 && K % 64 == 0, "sizes must be multiples of 64: ", M,
              ", ", K);
}

void gradient(at::Tensor dy, at::Tensor x, at::Tensor out) {
  dy = fix(dy, at::kBFloat16, "dy"), x = fix(x, at::kBFloat16, "x");
  const long N = dy.size(0), M = dy.size(1), K = x.size(1);
  sizes(M, K);
  TORCH_CHECK(out.device().is_cpu() && out.scalar_type() == at::kFloat && out.dim() == 2 &&
                  out.is_contiguous() && out.size(0) == M && out.size(1) == K && x.size(0) == N,
              "gradient: sizes differ, or out is not a contiguous float32 (M, K)");
  if (N)
    gradientOf((const bf*)dy.data_ptr(), (const bf*)x.data_ptr(), N, M, K, (float*)out.data_ptr());
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("gradient", &gradient, "out += dy.T @ x",
        pybind11::call_guard<pybind11::gil_scoped_release>());
}
