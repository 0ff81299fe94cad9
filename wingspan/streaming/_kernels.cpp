// What happens to a chunk of channels between two matrix products, each as one pass over memory: batch moments, normalise-add-
// ReLU-pool, and the gradients of both. `_kernels.py` has the same functions in PyTorch, which are the reference.
//
// Matrices are row-major with M = N * P rows (image n, position p) and c channels as lanes, so every inner loop is one that a
// compiler vectorises by itself. `bits` is (N, W, c) bytes, W = ceil(P / 8): bit p % 8 of byte p / 8 says that ReLU let the
// element through. Sums go thread by thread in the order of rows, so that a result depends on the number of threads alone.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct bf16 {
    uint16_t raw;
};

inline float load(float x) { return x; }
inline float load(bf16 x) {
    const uint32_t wide = static_cast<uint32_t>(x.raw) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}
inline void store(float* to, float x) { *to = x; }
inline void store(bf16* to, float x) {
    uint32_t wide;
    std::memcpy(&wide, &x, 4);
    const uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;  // to nearest, ties to even
    to->raw = static_cast<uint16_t>((wide & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// The part of `count` that a thread takes; parts differ by one at most and follow each other.
struct Part {
    int64_t from, to;
    Part(int64_t count, int64_t thread, int64_t threads) : from(count * thread / threads), to(count * (thread + 1) / threads) {}
};

constexpr int64_t kRows = 32;  // rows whose mean is taken before their spread, while they are still in the first cache

// Mean and sum of squared deviations of each channel; blocks of rows are merged by Chan's rule, which loses nothing to a mean
// far from zero.
template <typename T>
void moments(const T* y, int64_t M, int64_t c, float* mean, float* spread, int threads) {
    std::vector<double> means(threads * c, 0.0), spreads(threads * c, 0.0);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; ++thread) {
        const Part part(M, thread, threads);
        double* m = &means[thread * c];
        double* s = &spreads[thread * c];
        std::vector<float> middle(c), square(c);
        for (int64_t at = part.from; at < part.to; at += kRows) {
            const int64_t end = at + kRows < part.to ? at + kRows : part.to;
            const float share = 1.0f / static_cast<float>(end - at);
            for (int64_t j = 0; j < c; ++j) middle[j] = 0, square[j] = 0;
            for (int64_t row = at; row < end; ++row)
                for (int64_t j = 0; j < c; ++j) middle[j] += load(y[row * c + j]);
            for (int64_t j = 0; j < c; ++j) middle[j] *= share;
            for (int64_t row = at; row < end; ++row)
                for (int64_t j = 0; j < c; ++j) {
                    const float off = load(y[row * c + j]) - middle[j];
                    square[j] += off * off;
                }
            const double before = static_cast<double>(at - part.from), here = static_cast<double>(end - at);
            for (int64_t j = 0; j < c; ++j) {
                const double step = middle[j] - m[j];
                m[j] += step * here / (before + here);
                s[j] += square[j] + step * step * before * here / (before + here);
            }
        }
    }
    for (int64_t j = 0; j < c; ++j) {
        double m = 0, s = 0, before = 0;
        for (int thread = 0; thread < threads; ++thread) {
            const Part part(M, thread, threads);
            const double here = static_cast<double>(part.to - part.from);
            if (here == 0) continue;
            const double step = means[thread * c + j] - m;
            m += step * here / (before + here);
            s += spreads[thread * c + j] + step * step * before * here / (before + here);
            before += here;
        }
        mean[j] = static_cast<float>(m);
        spread[j] = static_cast<float>(s);
    }
}

// z = y scale + second scale2 + shift; pooled[n, j] = mean over positions of relu(z); bits where asked for. `second` may be null,
// its rows are `stride2` apart.
template <typename T>
void gate(const T* y, const T* second, int64_t stride2, const float* scale, const float* scale2, const float* shift, int64_t N,
          int64_t P, int64_t c, float* pooled, int64_t stride, uint8_t* bits, int threads) {
    const int64_t W = (P + 7) / 8;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; ++thread) {
        const Part part(N, thread, threads);
        std::vector<float> sum(c);
        std::vector<int32_t> mask(c);
        for (int64_t n = part.from; n < part.to; ++n) {
            for (int64_t j = 0; j < c; ++j) sum[j] = 0;
            for (int64_t w = 0; w < W; ++w) {
                for (int64_t j = 0; j < c; ++j) mask[j] = 0;
                for (int64_t p = 8 * w; p < P && p < 8 * w + 8; ++p) {
                    const T* a = y + (n * P + p) * c;
                    const int32_t bit = 1 << (p - 8 * w);
                    if (second != nullptr) {
                        const T* b = second + (n * P + p) * stride2;
                        for (int64_t j = 0; j < c; ++j) {
                            const float z = load(a[j]) * scale[j] + (load(b[j]) * scale2[j] + shift[j]);
                            sum[j] += z <= 0 ? 0 : z;  // a NaN passes, as through torch's relu
                            mask[j] |= z <= 0 ? 0 : bit;
                        }
                    } else {
                        for (int64_t j = 0; j < c; ++j) {
                            const float z = load(a[j]) * scale[j] + shift[j];
                            sum[j] += z <= 0 ? 0 : z;
                            mask[j] |= z <= 0 ? 0 : bit;
                        }
                    }
                }
                if (bits != nullptr) {
                    uint8_t* out = bits + (n * W + w) * c;
                    for (int64_t j = 0; j < c; ++j) out[j] = static_cast<uint8_t>(mask[j]);
                }
            }
            const float share = 1.0f / static_cast<float>(P);
            for (int64_t j = 0; j < c; ++j) pooled[n * stride + j] = sum[j] * share;
        }
    }
}

// dz[m, j] = bit * g[n, j], and its sum over rows.
template <typename T>
void spread_gradient(const uint8_t* bits, const float* g, int64_t stride, int64_t N, int64_t P, int64_t c, T* dz, int64_t stride_dz,
                     float* total, int threads) {
    const int64_t W = (P + 7) / 8;
    std::vector<float> totals(threads * c, 0.0f);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; ++thread) {
        const Part part(N, thread, threads);
        float* sum = &totals[thread * c];
        std::vector<float> count(c);
        for (int64_t n = part.from; n < part.to; ++n) {
            const float* gn = g + n * stride;
            for (int64_t j = 0; j < c; ++j) count[j] = 0;
            for (int64_t p = 0; p < P; ++p) {
                const uint8_t* b = bits + (n * W + p / 8) * c;
                const int k = static_cast<int>(p % 8);
                T* out = dz + (n * P + p) * stride_dz;
                for (int64_t j = 0; j < c; ++j) {
                    const float through = static_cast<float>((b[j] >> k) & 1);
                    count[j] += through;
                    store(out + j, through * gn[j]);
                }
            }
            for (int64_t j = 0; j < c; ++j) sum[j] += count[j] * gn[j];
        }
    }
    for (int64_t j = 0; j < c; ++j) {
        total[j] = 0;
        for (int thread = 0; thread < threads; ++thread) total[j] += totals[thread * c + j];
    }
}

// total[j] = sum of dz, product[j] = sum of dz (y - mean), over rows.
template <typename T>
void sums(const uint8_t* bits, const float* g, int64_t stride, const T* y, const float* mean, int64_t N, int64_t P, int64_t c,
          float* total, float* product, int threads) {
    const int64_t W = (P + 7) / 8;
    std::vector<float> totals(threads * c, 0.0f), products(threads * c, 0.0f);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; ++thread) {
        const Part part(N, thread, threads);
        std::vector<float> count(c), along(c);
        for (int64_t n = part.from; n < part.to; ++n) {
            for (int64_t j = 0; j < c; ++j) count[j] = 0, along[j] = 0;
            for (int64_t p = 0; p < P; ++p) {
                const uint8_t* b = bits + (n * W + p / 8) * c;
                const int k = static_cast<int>(p % 8);
                const T* in = y + (n * P + p) * c;
                for (int64_t j = 0; j < c; ++j) {
                    const float through = static_cast<float>((b[j] >> k) & 1);
                    count[j] += through;
                    along[j] += through * (load(in[j]) - mean[j]);
                }
            }
            const float* gn = g + n * stride;
            for (int64_t j = 0; j < c; ++j) {
                totals[thread * c + j] += count[j] * gn[j];
                products[thread * c + j] += along[j] * gn[j];
            }
        }
    }
    for (int64_t j = 0; j < c; ++j) {
        total[j] = product[j] = 0;
        for (int thread = 0; thread < threads; ++thread) {
            total[j] += totals[thread * c + j];
            product[j] += products[thread * c + j];
        }
    }
}

// Batch norm's gradient: dy = scale (dz - middle - slope (y - mean)). May be written over y.
template <typename T>
void norm_gradient(const uint8_t* bits, const float* g, int64_t stride, const T* y, const float* mean, const float* scale,
                   const float* middle, const float* slope, int64_t N, int64_t P, int64_t c, T* dy, int threads) {
    const int64_t W = (P + 7) / 8;
    std::vector<float> constant(c), times(c);
    for (int64_t j = 0; j < c; ++j) {
        constant[j] = scale[j] * (slope[j] * mean[j] - middle[j]);
        times[j] = -scale[j] * slope[j];
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; ++thread) {
        const Part part(N, thread, threads);
        std::vector<float> on(c);
        for (int64_t n = part.from; n < part.to; ++n) {
            for (int64_t j = 0; j < c; ++j) on[j] = scale[j] * g[n * stride + j];
            for (int64_t p = 0; p < P; ++p) {
                const uint8_t* b = bits + (n * W + p / 8) * c;
                const int k = static_cast<int>(p % 8);
                const T* in = y + (n * P + p) * c;
                T* out = dy + (n * P + p) * c;
                for (int64_t j = 0; j < c; ++j) {
                    const float through = static_cast<float>((b[j] >> k) & 1);
                    store(out + j, through * on[j] + (times[j] * load(in[j]) + constant[j]));
                }
            }
        }
    }
}

// sum += part
template <typename T>
void accumulate(float* sum, const T* part, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; ++thread) {
        const Part mine(count, thread, threads);
        for (int64_t at = mine.from; at < mine.to; ++at) sum[at] += load(part[at]);
    }
}

// weight_gradient[j, k] = scale[j] (Q[j, k] - slope[j] GW[j, k])
template <typename T>
void weight_gradient(const T* Q, const T* GW, const float* scale, const float* slope, int64_t c, int64_t K, float* out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t j = 0; j < c; ++j) {
        const float a = scale[j], b = -scale[j] * slope[j];
        for (int64_t k = 0; k < K; ++k) out[j * K + k] = a * load(Q[j * K + k]) + b * load(GW[j * K + k]);
    }
}

}  // namespace

#define EXPORT(T, suffix)                                                                                                          \
    extern "C" void moments_##suffix(const T* y, int64_t M, int64_t c, float* mean, float* spread, int threads) {                  \
        moments(y, M, c, mean, spread, threads);                                                                                   \
    }                                                                                                                              \
    extern "C" void gate_##suffix(const T* y, const T* second, int64_t stride2, const float* scale, const float* scale2,           \
                                  const float* shift, int64_t N, int64_t P, int64_t c, float* pooled, int64_t stride,              \
                                  uint8_t* bits, int threads) {                                                                    \
        gate(y, second, stride2, scale, scale2, shift, N, P, c, pooled, stride, bits, threads);                                    \
    }                                                                                                                              \
    extern "C" void spread_gradient_##suffix(const uint8_t* bits, const float* g, int64_t stride, int64_t N, int64_t P, int64_t c, \
                                             T* dz, int64_t stride_dz, float* total, int threads) {                                \
        spread_gradient(bits, g, stride, N, P, c, dz, stride_dz, total, threads);                                                  \
    }                                                                                                                              \
    extern "C" void sums_##suffix(const uint8_t* bits, const float* g, int64_t stride, const T* y, const float* mean, int64_t N,   \
                                  int64_t P, int64_t c, float* total, float* product, int threads) {                               \
        sums(bits, g, stride, y, mean, N, P, c, total, product, threads);                                                          \
    }                                                                                                                              \
    extern "C" void norm_gradient_##suffix(const uint8_t* bits, const float* g, int64_t stride, const T* y, const float* mean,     \
                                           const float* scale, const float* middle, const float* slope, int64_t N, int64_t P,      \
                                           int64_t c, T* dy, int threads) {                                                        \
        norm_gradient(bits, g, stride, y, mean, scale, middle, slope, N, P, c, dy, threads);                                       \
    }                                                                                                                              \
    extern "C" void accumulate_##suffix(float* sum, const T* part, int64_t count, int threads) {                                   \
        accumulate(sum, part, count, threads);                                                                                     \
    }                                                                                                                              \
    extern "C" void weight_gradient_##suffix(const T* Q, const T* GW, const float* scale, const float* slope, int64_t c,           \
                                             int64_t K, float* out, int threads) {                                                 \
        weight_gradient(Q, GW, scale, slope, c, K, out, threads);                                                                  \
    }

EXPORT(float, f32)
EXPORT(bf16, bf16)
