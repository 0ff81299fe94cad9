// The k nearest binary codes, exactly: XOR and population count, several codes at a time in the lanes of a vector, each read
// from memory once for many queries; a query keeps its k smallest keys in a heap.
//
// A key is distance << 31 | row: keys of one query are all different, and their order is nearest first, at equal distance the
// first row first. So what is found depends neither on the order in which codes are met nor on the number of threads.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <omp.h>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the last bytes of a code are shifted down");

namespace {

#ifdef __AVX512VPOPCNTDQ__
typedef uint64_t Lanes __attribute__((vector_size(64)));  // one word of eight codes
inline Lanes ones(Lanes x) { return reinterpret_cast<Lanes>(_mm512_popcnt_epi64(reinterpret_cast<__m512i>(x))); }
inline bool any_within(Lanes x, uint64_t most) {
    return _mm512_cmple_epu64_mask(reinterpret_cast<__m512i>(x), _mm512_set1_epi64(static_cast<int64_t>(most)));
}
#elif defined(__AVX2__)
typedef uint64_t Lanes __attribute__((vector_size(32)));  // one word of four codes
inline Lanes ones(Lanes x) {
    const __m256i of_four_bits = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
                                                  0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = reinterpret_cast<__m256i>(x & 0x0f0f0f0f0f0f0f0fu);
    const __m256i high = reinterpret_cast<__m256i>((x >> 4) & 0x0f0f0f0f0f0f0f0fu);
    const __m256i bytes = _mm256_add_epi8(_mm256_shuffle_epi8(of_four_bits, low), _mm256_shuffle_epi8(of_four_bits, high));
    return reinterpret_cast<Lanes>(_mm256_sad_epu8(bytes, _mm256_setzero_si256()));
}
inline bool any_within(Lanes x, uint64_t most) {
    return _mm256_movemask_epi8(reinterpret_cast<__m256i>(x <= most));
}
#else
typedef uint64_t Lanes;  // one word of one code, whose population count the compiler vectorises where it can
inline Lanes ones(Lanes x) { return static_cast<uint64_t>(__builtin_popcountll(x)); }
inline bool any_within(Lanes x, uint64_t most) { return x <= most; }
#endif
constexpr int kLanes = sizeof(Lanes) / 8;

constexpr int kQueries = 4, kGroups = 2;  // queries and groups of codes whose sums stay in registers
constexpr int64_t kCache = 1 << 17;       // bytes of codes that are laid out in lanes together: some of a core's second cache
constexpr int64_t kFew = 4, kWide = 64;   // as few queries, of as many bytes for each: laying out codes does not pay
constexpr int64_t kShare = 32;            // queries that are worth a thread of their own
constexpr int64_t kNone = std::numeric_limits<int64_t>::max();

inline uint64_t word(const uint8_t* at) {
    uint64_t found;
    std::memcpy(&found, at, 8);
    return found;
}

// N codes of any number of bytes, rows `start`.. of a bank.
struct Codes {
    const uint8_t* at;
    int64_t N, bytes, start;
    const uint8_t* row(int64_t i) const { return at + i * bytes; }
    // The bytes beyond the last whole word, as a word.
    uint64_t rest(const uint8_t* code) const {
        const int64_t more = bytes % 8;
        if (bytes > 8) return word(code + bytes - 8) >> 8 * (8 - more);
        uint64_t found = 0;
        std::memcpy(&found, code, more);
        return found;
    }
};

// M queries, filled up to whole words, and their heaps of k keys, the greatest first.
struct Queries {
    const uint8_t* at;
    int64_t M, words, k;
    int64_t* heaps;
    const uint8_t* row(int64_t i) const { return at + i * words * 8; }
    int64_t most(int64_t i) const { return heaps[i * k]; }
    // A key takes the place of the greatest, where it is smaller.
    void offer(int64_t i, int64_t key) const {
        int64_t* heap = heaps + i * k;
        if (key >= heap[0]) return;
        int64_t at = 0;
        for (int64_t child = 1; child < k; child = 2 * at + 1) {
            if (child + 1 < k && heap[child + 1] > heap[child]) ++child;
            if (heap[child] <= key) break;
            heap[at] = heap[child];
            at = child;
        }
        heap[at] = key;
    }
};

// Codes from..to, laid out in groups of as many as there are lanes: (groups, words) lanes.
void lay_out(const Codes& bank, int64_t from, int64_t to, int64_t words, Lanes* laid) {
    const int64_t whole = bank.bytes / 8;
    for (int64_t first = from; first < to; first += kLanes, laid += words) {
        const uint8_t* codes[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) codes[lane] = bank.row(std::min(first + lane, to - 1));
        for (int64_t w = 0; w < words; ++w) {
            uint64_t one[kLanes];
#pragma GCC unroll 8
            for (int lane = 0; lane < kLanes; ++lane)
                one[lane] = w < whole ? word(codes[lane] + 8 * w) : bank.rest(codes[lane]);
            std::memcpy(&laid[w], one, sizeof one);
        }
    }
}

// Q queries from `first` on against G groups, of which the first lane is `row` and rows end at `end`.
template <int Q, int G>
inline void meet(const Queries& queries, int64_t first, const Lanes* laid, int64_t start, int64_t row, int64_t end) {
    const int64_t words = queries.words;
    const uint8_t* query[Q];
    for (int q = 0; q < Q; ++q) query[q] = queries.row(first + q);
    Lanes sum[Q][G] = {};
    for (int64_t w = 0; w < words; ++w) {
        Lanes codes[G];
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) codes[g] = laid[g * words + w];
#pragma GCC unroll 8
        for (int q = 0; q < Q; ++q) {
            const uint64_t one = word(query[q] + 8 * w);
#pragma GCC unroll 8
            for (int g = 0; g < G; ++g) sum[q][g] += ones(codes[g] ^ one);
        }
    }
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q)
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) {
            if (!any_within(sum[q][g], static_cast<uint64_t>(queries.most(first + q)) >> 31)) continue;
            uint64_t near[kLanes];
            std::memcpy(near, &sum[q][g], sizeof near);
            for (int lane = 0; lane < kLanes; ++lane) {
                const int64_t at = row + g * kLanes + lane;
                if (at < end) queries.offer(first + q, static_cast<int64_t>(near[lane] << 31) | (start + at));
            }
        }
}

template <int Q>
void meet_all(const Queries& queries, int64_t first, const Lanes* laid, int64_t start, int64_t row, int64_t end) {
    for (; row + kLanes * (kGroups - 1) < end; row += kLanes * kGroups, laid += kGroups * queries.words)
        meet<Q, kGroups>(queries, first, laid, start, row, end);
    for (; row < end; row += kLanes, laid += queries.words) meet<Q, 1>(queries, first, laid, start, row, end);
}

// Queries first..last against codes from..to, laid out.
void search(const Queries& queries, int64_t first, int64_t last, const Codes& bank, int64_t from, int64_t to) {
    const int64_t step = std::max<int64_t>(1, kCache / (8 * queries.words * kLanes * kGroups)) * kLanes * kGroups;
    std::vector<Lanes> laid((std::min(step, to - from) + kLanes - 1) / kLanes * queries.words);
    for (; from < to; from += step) {
        const int64_t end = std::min(from + step, to);
        lay_out(bank, from, end, queries.words, laid.data());
        int64_t q = first;
        for (; q + kQueries <= last; q += kQueries) meet_all<kQueries>(queries, q, laid.data(), bank.start, from, end);
        for (; q < last; ++q) meet_all<1>(queries, q, laid.data(), bank.start, from, end);
    }
}

// All queries, which are few, against codes from..to as they lie.
void search_few(const Queries& queries, const Codes& bank, int64_t from, int64_t to) {
    for (int64_t row = from; row < to; ++row) {
        const uint8_t* code = bank.row(row);
        for (int64_t q = 0; q < queries.M; ++q) {
            const uint8_t* query = queries.row(q);
            uint64_t sum = 0;
            for (int64_t w = 0; w < bank.bytes / 8; ++w)
                sum += static_cast<uint64_t>(__builtin_popcountll(word(query + 8 * w) ^ word(code + 8 * w)));
            if (bank.bytes % 8)
                sum += static_cast<uint64_t>(__builtin_popcountll(word(query + bank.bytes / 8 * 8) ^ bank.rest(code)));
            queries.offer(q, static_cast<int64_t>(sum << 31) | (bank.start + row));
        }
    }
}

}  // namespace

// codes (N, bytes), rows start..start + N of a bank; queries (M, bytes, filled up with zeros to a multiple of 8); heaps (M, k),
// the keys kept so far as the last call left them, at first all INT64_MAX.
extern "C" void nearest(const uint8_t* codes, int64_t N, int64_t bytes, int64_t start, const uint8_t* asked, int64_t M,
                        int64_t k, int64_t* heaps, int threads) {
    const Codes bank{codes, N, bytes, start};
    const Queries queries{asked, M, (bytes + 7) / 8, k, heaps};
    if (M >= kShare * threads) {
        const int64_t share = (M / threads / 4 + kQueries - 1) / kQueries * kQueries;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
        for (int64_t first = 0; first < M; first += share) search(queries, first, std::min(first + share, M), bank, 0, N);
        return;
    }
    // Few queries: the codes are divided. Each thread but the first has heaps of its own.
    std::vector<std::vector<int64_t>> own(threads);
    const int64_t parts = 4 * threads;  // so that a thread whose core is busy takes fewer
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t part = 0; part < parts; ++part) {
        const int thread = omp_get_thread_num();
        Queries mine = queries;
        if (thread) {
            if (own[thread].empty()) own[thread].assign(M * k, kNone);
            mine.heaps = own[thread].data();
        }
        const int64_t from = N * part / parts, to = N * (part + 1) / parts;
        if (M <= kFew && M * kWide <= bytes) search_few(mine, bank, from, to);
        else search(mine, 0, M, bank, from, to);
    }
    for (const auto& kept : own)
        for (size_t at = 0; at < kept.size(); ++at) queries.offer(static_cast<int64_t>(at) / k, kept[at]);
}
