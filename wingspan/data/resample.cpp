// Pillow's bicubic resize of a box of an RGB image, to the bit: weights with 22 bits after the point, columns first, rounded to
// bytes, then rows. What is faster is the order in memory: four rows at a time lie side by side, the sixteen numbers of a vector.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

constexpr int kBits = 22, kLanes = 16;  // four RGBX pixels

// Output i is the sum over t < count[i] of weights[i taps + t] times input first[i] + t.
struct Weights {
    const int32_t *weights, *first, *count;
    int64_t taps;
    int64_t begin() const { return first[0]; }
    int64_t end(int64_t side) const { return first[side - 1] + count[side - 1]; }
};

// Four pixels of output i; `stride` bytes lie between one input and the next.
inline void filtered(const Weights& w, int64_t i, const uint8_t* at, int64_t stride, uint8_t* to) {
    const int32_t* weights = w.weights + i * w.taps;
    const int64_t count = w.count[i];
#ifdef __AVX2__
    __m256i low = _mm256_set1_epi32(1 << (kBits - 1)), high = low;
    for (int64_t t = 0; t < count; t++) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + t * stride));
        const __m256i weight = _mm256_set1_epi32(weights[t]);
        low = _mm256_add_epi32(low, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes), weight));
        high = _mm256_add_epi32(high, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)), weight));
    }
    const __m256i words = _mm256_packus_epi32(_mm256_srai_epi32(low, kBits), _mm256_srai_epi32(high, kBits));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0b11011000);  // packing goes by halves of a vector
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
#else
    int32_t sums[kLanes];
    for (int l = 0; l < kLanes; l++) sums[l] = 1 << (kBits - 1);
    for (int64_t t = 0; t < count; t++)
        for (int l = 0; l < kLanes; l++) sums[l] += weights[t] * at[t * stride + l];
    for (int l = 0; l < kLanes; l++) to[l] = static_cast<uint8_t>(std::min(std::max(sums[l] >> kBits, 0), 255));
#endif
}

}  // namespace

// image: rows of `width` RGBX pixels; out: 3 x side x side. Weights of columns, then of rows.
extern "C" void resample(const uint8_t* image, int64_t width, const int32_t* column_weights, const int32_t* column_first,
                         const int32_t* column_count, int64_t column_taps, const int32_t* row_weights, const int32_t* row_first,
                         const int32_t* row_count, int64_t row_taps, int64_t side, uint8_t* out) {
    const Weights across{column_weights, column_first, column_count, column_taps};
    const Weights down{row_weights, row_first, row_count, row_taps};
    const int64_t left = across.begin(), wide = across.end(side) - left, top = down.begin(), high = down.end(side) - top;
    const int64_t padded = (side + 3) / 4 * 4;  // columns of what is resized across, so that whole vectors can be read
    std::vector<uint8_t> four(kLanes * wide), narrow(4 * high * padded);
    for (int64_t y = 0; y < high; y += 4) {
        for (int r = 0; r < 4; r++) {
            const uint8_t* row = image + 4 * ((top + std::min(y + r, high - 1)) * width + left);
            for (int64_t x = 0; x < wide; x++) std::memcpy(&four[kLanes * x + 4 * r], row + 4 * x, 4);
        }
        for (int64_t x = 0; x < side; x++) {
            uint8_t found[kLanes];
            filtered(across, x, &four[kLanes * (across.first[x] - left)], kLanes, found);
            for (int r = 0; r < 4 && y + r < high; r++) std::memcpy(&narrow[4 * ((y + r) * padded + x)], found + 4 * r, 4);
        }
    }
    const int64_t plane = side * side;
    for (int64_t y = 0; y < side; y++) {
        for (int64_t x = 0; x < side; x += 4) {
            uint8_t found[kLanes];
            filtered(down, y, &narrow[4 * ((down.first[y] - top) * padded + x)], 4 * padded, found);
            for (int64_t n = 0; n < std::min<int64_t>(4, side - x); n++)
                for (int c = 0; c < 3; c++) out[c * plane + y * side + x + n] = found[4 * n + c];
        }
    }
}
