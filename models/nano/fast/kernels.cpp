// What a training pass does beside its matrix products, each in one sweep over memory.
//
// bf16 in and out, float32 inside. One thread: a crew of processes shares the cores.
// Needs AVX512-BF16; built on first use by passes.py.

#include <immintrin.h>
#include <torch/extension.h>

#include <cmath>
#include <vector>

namespace {

using at::Tensor;
using bf16 = at::BFloat16;

constexpr int64_t kHead = 64, kQueryHeads = 4, kKeyHeads = 2;
constexpr int64_t kQuery = kHead * kQueryHeads, kKey = kHead * kKeyHeads;
constexpr int64_t kJoined = kQuery + 2 * kKey;

inline __m512 load(const bf16* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}

inline void store(bf16* p, __m512 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x));
}

// e^x to 1e-7, x clamped to where float32 has a finite answer.
inline __m512 exp16(__m512 x) {
  x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.0f)), _mm512_set1_ps(88.0f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

// Root-mean-square norm of float32 rows.
std::vector<Tensor> norm(const Tensor& x, const Tensor& weight, double eps) {
  const int64_t rows = x.size(0), width = x.size(1);
  Tensor out = at::empty({rows, width}, x.options().dtype(at::kBFloat16));
  Tensor scales = at::empty({rows}, x.options());
  const float* w = weight.data_ptr<float>();
  for (int64_t row = 0; row < rows; ++row) {
    const float* in = x.data_ptr<float>() + row * width;
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += 16) {
      const __m512 v = _mm512_loadu_ps(in + i);
      sum = _mm512_fmadd_ps(v, v, sum);
    }
    const float scale = 1.0f / std::sqrt(_mm512_reduce_add_ps(sum) / width + (float)eps);
    scales.data_ptr<float>()[row] = scale;
    bf16* o = out.data_ptr<bf16>() + row * width;
    for (int64_t i = 0; i < width; i += 16)
      store(o + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(in + i), _mm512_set1_ps(scale)),
                                 _mm512_loadu_ps(w + i)));
  }
  return {out, scales};
}

// Adds the norm's gradient to dx (float32) and dw.
void norm_back(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& scales,
               Tensor& dx, Tensor& dw) {
  const int64_t rows = x.size(0), width = x.size(1);
  const float* w = weight.data_ptr<float>();
  float* gw = dw.data_ptr<float>();
  for (int64_t row = 0; row < rows; ++row) {
    const bf16* g = dy.data_ptr<bf16>() + row * width;
    const float* in = x.data_ptr<float>() + row * width;
    float* out = dx.data_ptr<float>() + row * width;
    const __m512 scale = _mm512_set1_ps(scales.data_ptr<float>()[row]);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += 16) {
      const __m512 v = _mm512_mul_ps(_mm512_loadu_ps(in + i), scale), d = load(g + i);
      sum = _mm512_fmadd_ps(_mm512_mul_ps(d, _mm512_loadu_ps(w + i)), v, sum);
      _mm512_storeu_ps(gw + i, _mm512_fmadd_ps(d, v, _mm512_loadu_ps(gw + i)));
    }
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / width);
    for (int64_t i = 0; i < width; i += 16) {
      const __m512 v = _mm512_mul_ps(_mm512_loadu_ps(in + i), scale);
      const __m512 d = _mm512_mul_ps(load(g + i), _mm512_loadu_ps(w + i));
      const __m512 own = _mm512_mul_ps(scale, _mm512_fnmadd_ps(v, mean, d));
      _mm512_storeu_ps(out + i, _mm512_add_ps(_mm512_loadu_ps(out + i), own));
    }
  }
}

// x += y, float32 and bf16.
void add(Tensor& x, const Tensor& y) {
  float* a = x.data_ptr<float>();
  const bf16* b = y.data_ptr<bf16>();
  for (int64_t i = 0; i < x.numel(); i += 16)
    _mm512_storeu_ps(a + i, _mm512_add_ps(_mm512_loadu_ps(a + i), load(b + i)));
}

// Norm and rotation of one head; cos and sin are the position's 64 values.
inline float turn(const bf16* in, const float* w, const float* cos, const float* sin, float eps,
                  bf16* out) {
  __m512 v[4], sum = _mm512_setzero_ps();
  for (int i = 0; i < 4; ++i) {
    v[i] = load(in + 16 * i);
    sum = _mm512_fmadd_ps(v[i], v[i], sum);
  }
  const float scale = 1.0f / std::sqrt(_mm512_reduce_add_ps(sum) / kHead + eps);
  for (int i = 0; i < 4; ++i)
    v[i] = _mm512_mul_ps(_mm512_mul_ps(v[i], _mm512_set1_ps(scale)), _mm512_loadu_ps(w + 16 * i));
  for (int i = 0; i < 4; ++i) {
    const __m512 other = v[i ^ 2];
    const __m512 s = _mm512_loadu_ps(sin + 16 * i), c = _mm512_loadu_ps(cos + 16 * i);
    const __m512 straight = _mm512_mul_ps(v[i], c);
    store(out + 16 * i,
          i < 2 ? _mm512_fnmadd_ps(other, s, straight) : _mm512_fmadd_ps(other, s, straight));
  }
  return scale;
}

inline void turn_back(const bf16* dy, const bf16* in, const float* w, const float* cos,
                      const float* sin, float scale, bf16* dx, float* dw) {
  __m512 d[4], g[4], v[4], sum = _mm512_setzero_ps();
  for (int i = 0; i < 4; ++i) d[i] = load(dy + 16 * i);
  for (int i = 0; i < 4; ++i) {
    const __m512 s = _mm512_loadu_ps(sin + 16 * (i ^ 2)), c = _mm512_loadu_ps(cos + 16 * i);
    const __m512 straight = _mm512_mul_ps(d[i], c);
    g[i] = i < 2 ? _mm512_fmadd_ps(d[i ^ 2], s, straight) : _mm512_fnmadd_ps(d[i ^ 2], s, straight);
    v[i] = _mm512_mul_ps(load(in + 16 * i), _mm512_set1_ps(scale));
    _mm512_storeu_ps(dw + 16 * i, _mm512_fmadd_ps(g[i], v[i], _mm512_loadu_ps(dw + 16 * i)));
    g[i] = _mm512_mul_ps(g[i], _mm512_loadu_ps(w + 16 * i));
    sum = _mm512_fmadd_ps(g[i], v[i], sum);
  }
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / kHead);
  for (int i = 0; i < 4; ++i)
    store(dx + 16 * i, _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_fnmadd_ps(v[i], mean, g[i])));
}

// Queries, keys and values (rows, heads, 64) of their joined projection (rows, 512).
std::vector<Tensor> heads(const Tensor& joined, const Tensor& wq, const Tensor& wk,
                          const Tensor& cos, const Tensor& sin, double eps) {
  const int64_t rows = joined.size(0), length = cos.size(0);
  Tensor q = at::empty({rows, kQueryHeads, kHead}, joined.options());
  Tensor k = at::empty({rows, kKeyHeads, kHead}, joined.options());
  Tensor v = at::empty({rows, kKeyHeads, kHead}, joined.options());
  Tensor scales = at::empty({rows, kQueryHeads + kKeyHeads}, joined.options().dtype(at::kFloat));
  for (int64_t row = 0; row < rows; ++row) {
    const bf16* in = joined.data_ptr<bf16>() + row * kJoined;
    const float* c = cos.data_ptr<float>() + row % length * kHead;
    const float* s = sin.data_ptr<float>() + row % length * kHead;
    float* scale = scales.data_ptr<float>() + row * (kQueryHeads + kKeyHeads);
    for (int64_t h = 0; h < kQueryHeads; ++h)
      scale[h] = turn(in + h * kHead, wq.data_ptr<float>(), c, s, (float)eps,
                      q.data_ptr<bf16>() + row * kQuery + h * kHead);
    for (int64_t h = 0; h < kKeyHeads; ++h)
      scale[kQueryHeads + h] = turn(in + kQuery + h * kHead, wk.data_ptr<float>(), c, s, (float)eps,
                                    k.data_ptr<bf16>() + row * kKey + h * kHead);
    std::memcpy(v.data_ptr<bf16>() + row * kKey, in + kQuery + kKey, kKey * sizeof(bf16));
  }
  return {q, k, v, scales};
}

// Gradient of the joined projection; adds to dwq and dwk.
Tensor heads_back(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& joined,
                  const Tensor& wq, const Tensor& wk, const Tensor& cos, const Tensor& sin,
                  const Tensor& scales, Tensor& dwq, Tensor& dwk) {
  const int64_t rows = joined.size(0), length = cos.size(0);
  Tensor out = at::empty_like(joined);
  for (int64_t row = 0; row < rows; ++row) {
    const bf16* in = joined.data_ptr<bf16>() + row * kJoined;
    bf16* to = out.data_ptr<bf16>() + row * kJoined;
    const float* c = cos.data_ptr<float>() + row % length * kHead;
    const float* s = sin.data_ptr<float>() + row % length * kHead;
    const float* scale = scales.data_ptr<float>() + row * (kQueryHeads + kKeyHeads);
    for (int64_t h = 0; h < kQueryHeads; ++h)
      turn_back(dq.data_ptr<bf16>() + row * kQuery + h * kHead, in + h * kHead,
                wq.data_ptr<float>(), c, s, scale[h], to + h * kHead, dwq.data_ptr<float>());
    for (int64_t h = 0; h < kKeyHeads; ++h)
      turn_back(dk.data_ptr<bf16>() + row * kKey + h * kHead, in + kQuery + h * kHead,
                wk.data_ptr<float>(), c, s, scale[kQueryHeads + h], to + kQuery + h * kHead,
                dwk.data_ptr<float>());
    std::memcpy(to + kQuery + kKey, dv.data_ptr<bf16>() + row * kKey, kKey * sizeof(bf16));
  }
  return out;
}

// silu(gate) * up of the joined projection (rows, 2 n), gate first.
Tensor gate(const Tensor& joined) {
  const int64_t rows = joined.size(0), n = joined.size(1) / 2;
  Tensor out = at::empty({rows, n}, joined.options());
  const __m512 one = _mm512_set1_ps(1.0f);
  for (int64_t row = 0; row < rows; ++row) {
    const bf16* in = joined.data_ptr<bf16>() + row * 2 * n;
    bf16* o = out.data_ptr<bf16>() + row * n;
    for (int64_t i = 0; i < n; i += 16) {
      const __m512 g = load(in + i);
      const __m512 e = exp16(_mm512_sub_ps(_mm512_setzero_ps(), g));
      store(o + i, _mm512_div_ps(_mm512_mul_ps(g, load(in + n + i)), _mm512_add_ps(one, e)));
    }
  }
  return out;
}

Tensor gate_back(const Tensor& dy, const Tensor& joined) {
  const int64_t rows = joined.size(0), n = joined.size(1) / 2;
  Tensor out = at::empty_like(joined);
  const __m512 one = _mm512_set1_ps(1.0f);
  for (int64_t row = 0; row < rows; ++row) {
    const bf16* in = joined.data_ptr<bf16>() + row * 2 * n;
    const bf16* d = dy.data_ptr<bf16>() + row * n;
    bf16* o = out.data_ptr<bf16>() + row * 2 * n;
    for (int64_t i = 0; i < n; i += 16) {
      const __m512 g = load(in + i), up = load(in + n + i), dd = load(d + i);
      const __m512 s =
          _mm512_div_ps(one, _mm512_add_ps(one, exp16(_mm512_sub_ps(_mm512_setzero_ps(), g))));
      // The slope of g s(g) is s (1 + g (1 - s)).
      const __m512 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(g, _mm512_sub_ps(one, s), one));
      store(o + i, _mm512_mul_ps(_mm512_mul_ps(dd, up), slope));
      store(o + n + i, _mm512_mul_ps(dd, _mm512_mul_ps(g, s)));
    }
  }
  return out;
}

// Loss in nats, whether the likeliest token is the target, and log of the sum of exponentials.
std::vector<Tensor> losses(const Tensor& logits, const Tensor& targets) {
  const int64_t rows = logits.size(0), n = logits.size(1);
  Tensor loss = at::empty({rows}, logits.options().dtype(at::kFloat));
  Tensor right = at::empty({rows}, logits.options().dtype(at::kBool));
  Tensor sums = at::empty({rows}, logits.options().dtype(at::kFloat));
  for (int64_t row = 0; row < rows; ++row) {
    const bf16* in = logits.data_ptr<bf16>() + row * n;
    const float own = in[targets.data_ptr<int64_t>()[row]];
    __m512 most = load(in), sum = _mm512_setzero_ps();
    for (int64_t i = 16; i < n; i += 16) most = _mm512_max_ps(most, load(in + i));
    const float top = _mm512_reduce_max_ps(most);
    for (int64_t i = 0; i < n; i += 16)
      sum = _mm512_add_ps(sum, exp16(_mm512_sub_ps(load(in + i), _mm512_set1_ps(top))));
    const float all = top + std::log(_mm512_reduce_add_ps(sum));
    sums.data_ptr<float>()[row] = all;
    loss.data_ptr<float>()[row] = all - own;
    right.data_ptr<bool>()[row] = own == top;
  }
  return {loss, right, sums};
}

// Turns logits into their gradient, in place; `weights` (rows) is that of each loss.
void losses_back(Tensor& logits, const Tensor& targets, const Tensor& sums, const Tensor& weights) {
  const int64_t rows = logits.size(0), n = logits.size(1);
  for (int64_t row = 0; row < rows; ++row) {
    bf16* in = logits.data_ptr<bf16>() + row * n;
    const float weight = weights.data_ptr<float>()[row];
    const __m512 all = _mm512_set1_ps(sums.data_ptr<float>()[row]), w = _mm512_set1_ps(weight);
    const int64_t target = targets.data_ptr<int64_t>()[row];
    const float own = std::exp((float)in[target] - sums.data_ptr<float>()[row]);
    for (int64_t i = 0; i < n; i += 16)
      store(in + i, _mm512_mul_ps(w, exp16(_mm512_sub_ps(load(in + i), all))));
    in[target] = bf16(weight * (own - 1.0f));
  }
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("norm", &norm);
  m.def("norm_back", &norm_back);
  m.def("add", &add);
  m.def("heads", &heads);
  m.def("heads_back", &heads_back);
  m.def("gate", &gate);
  m.def("gate_back", &gate_back);
  m.def("losses", &losses);
  m.def("losses_back", &losses_back);
}
