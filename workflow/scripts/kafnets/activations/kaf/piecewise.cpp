// Piecewise polynomials, one per channel: their values at many points, and the adjoint sums.
//
// A smooth function of one variable is given per channel by `cells` polynomials of degree 6 on cells of equal
// width. Evaluating computes y = p(x), times a cotangent if given. The adjoint adds up, over all points x of a
// channel in each of 8 * cells finer cells, the cotangent times v^0 ... v^3, with v the place in the fine cell,
// and turns these moments into the cotangents of the 7 node values that each cell's polynomial interpolates:
// all that a gradient with respect to whatever shaped the function needs to know of the points. Points outside
// the cells are rare; `tail_value` says what holds there.
//
// A cell ends where the next one begins, so that with `edges` at a kink on either side of it another polynomial
// holds: a Gaussian mixture plus w b(x), with b the identity, ReLU, ELU or SiLU, is such a function too, and so is
// one that is continued from +-boundary on. The kink itself belongs to the cell on its left.
//
// Plain C interface, no dependencies, so that any C++ compiler builds it in seconds. Every sum is cut into
// blocks by the shape alone: results do not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

typedef double Eight __attribute__((vector_size(64)));  // GCC's and clang's, on any processor
typedef int64_t EightBits __attribute__((vector_size(64)));

inline Eight load(const double* from) {
  Eight to;
  std::memcpy(&to, from, sizeof to);
  return to;
}

inline double sum_of(Eight x) {
  return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
}

constexpr int kCoefficients = 7;
constexpr int kPadded = 8;
constexpr int kFine = 8;           // fine cells in a cell
constexpr int kMoments = 4;
constexpr int kCopies = 2;         // of the moments: neighbours in the same cell need not wait for each other
constexpr int64_t kBatch = 256;    // points whose places in the sums are found before they are added
constexpr int64_t kFlush = 8192;   // points summed in float before they go to double
constexpr int64_t kItem = 32768;   // points of a channel in one piece of work
constexpr int kLanes = 16;         // channels of a tile, at most
constexpr int64_t kTile = 512;     // points of a channel in a tile
constexpr int64_t kTileStride = kTile + 16;  // rows 2048 bytes apart would share a few lines of the cache
constexpr int64_t kRows = 512;    // points of a channel that are worth fetching its sums for
constexpr int64_t kShortRow = 32;  // too short to be worked on where it lies
constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
constexpr int32_t kMagicBits = 0x4B400000;

}  // namespace

extern "C" {

// One call. Pointers of parameters shared by all channels have stride 0.
struct PiecewiseCall {
  const float* x;             // (batch, channels, positions), or (batch, positions, channels) if interleaved
  const float* g;             // cotangent, like x, or null
  float* y;                   // like x; written if `coefficients` is given
  const float* coefficients;  // (channels, 7, cells), lowest power first, or null
  double* cotangents;         // (blocks, channels, cells, 7): of the node values; written if not null
  const double* to_nodes;     // (8 * 4, 8): moments in a cell -> cotangents of its node values, and a zero
  const float* inverse_width; // of a cell
  const int32_t* first;       // cell k is centred at (first + k) / inverse_width
  const double* alpha;        // (channels, terms): the mixture of Gaussians, for points outside the cells
  const double* dictionary;   // (channels, terms)
  const double* bandwidth;
  int64_t grid_stride, dictionary_stride, bandwidth_stride;
  int64_t cells, terms, batch, channels, positions;
  int32_t derivative;         // the polynomials are of the derivative of the mixture
  int32_t interleaved, threads;
  // Of a mixture with a base; all 0 for one without.
  const double* weight;       // (channels): w
  const double* ends;         // (channels, 4): the mixture's value and slope at -boundary and at boundary
  double* outside;            // (blocks, channels, 5), zero at first: of the points outside the cells the sums of
                              // g b(x), and left and right of g and of g (x -+ boundary)
  double boundary;
  int32_t base;               // 1: identity, 2: ReLU, 3: ELU, 4: SiLU
  int32_t tails;              // of the mixture from +-boundary on. 0: as it is, 1: constant, 2: linear
  int32_t edges;              // cell k is on (first + k, first + k + 1] / inverse_width
};
}

namespace {

// a * b + c, rounded once where the machine can: the place in a cell keeps its last bits.
inline float multiply_add(float a, float b, float c) {
#if defined(FP_FAST_FMAF)
  return std::fma(a, b, c);
#else
  return static_cast<float>(static_cast<double>(a) * b + c);
#endif
}

// The base, or its derivative.
double base_value(const PiecewiseCall& call, double x) {
  const bool slope = call.derivative;
  if (call.base == 1) return slope ? 1 : x;
  if (call.base == 2) return x > 0 ? (slope ? 1 : x) : 0;
  if (call.base == 3) return x > 0 ? (slope ? 1 : x) : slope ? std::exp(x) : std::expm1(x);
  const double sigma = 1 / (1 + std::exp(-x));
  if (slope) return sigma * (1 + (std::isinf(x) ? 0 : x * (1 - sigma)));
  return sigma == 0 ? 0 : x * sigma;
}

double mixture_beyond(const PiecewiseCall& call, int64_t channel, double x) {
  const double* end = call.ends + channel * 4 + (x > 0 ? 2 : 0);
  if (call.tails == 1) return call.derivative ? 0 : end[0];
  if (call.derivative) return end[1];
  return end[1] == 0 ? end[0] : end[0] + end[1] * (x - std::copysign(call.boundary, x));
}

double mixture_value(const PiecewiseCall& call, int64_t channel, double x) {
  const double* d = call.dictionary + channel * call.dictionary_stride;
  const double* a = call.alpha + channel * call.terms;
  const double gamma = call.bandwidth[channel * call.bandwidth_stride];
  double sum = 0;
  for (int64_t i = 0; i < call.terms; ++i) {
    const double u = x - d[i];
    const double exponent = gamma * u * u;
    if (!(exponent < 104)) continue;  // 0 in float
    sum += a[i] * std::exp(-exponent) * (call.derivative ? -2 * gamma * u : 1.0);
  }
  return sum;
}

float tail_value(const PiecewiseCall& call, int64_t channel, float x) {
  if (std::isnan(x)) return x;
  double sum = call.tails ? mixture_beyond(call, channel, x) : mixture_value(call, channel, x);
  if (call.base) sum += call.weight[channel] * base_value(call, x);
  return static_cast<float>(sum);
}

// What a point outside the cells adds to the gradients of a mixture with a base.
void add_outside(const PiecewiseCall& call, float x, float g, double* sums) {
  PiecewiseCall value = call;
  value.derivative = 0;
  sums[0] += g * base_value(value, x);
  double* side = sums + (x > 0 ? 3 : 1);
  side[0] += g;
  side[1] += g * (x - std::copysign(call.boundary, static_cast<double>(x)));
}

struct Piece {  // one channel's polynomials
  const float* coefficients;  // (7, cells)
  float inverse_width, offset;
  int64_t cells, channel;
};

Piece piece_of(const PiecewiseCall& call, int64_t channel) {
  const int64_t at = channel * call.grid_stride;
  return {call.coefficients ? call.coefficients + channel * kCoefficients * call.cells : nullptr,
          call.inverse_width[at], kMagic - static_cast<float>(call.first[at]), call.cells, channel};
}

void evaluate_tail(const Piece& piece, const PiecewiseCall& call, const float* x, const float* g, float* y,
                   uint32_t lanes) {
  for (int lane = 0; lanes; ++lane, lanes >>= 1) {
    if (!(lanes & 1)) continue;
    const float value = tail_value(call, piece.channel, x[lane]);
    y[lane] = g ? g[lane] * value : value;
  }
}

// Floats from one copy of the sums to the next: padded, because addresses 4096 bytes apart look alike to the
// processor, and it would make each copy wait for the others after all.
inline int64_t copy_stride(int64_t cells) { return cells * kFine * kMoments + 48; }

#if defined(__AVX512F__)

// The polynomials at xs, and which of them are not within the cells; coefficient(k, cell) finds those of power k.
template <bool kEdges, typename Coefficient>
inline __m512 polynomials(__m512 xs, __m512 inverse, __m512 offset, __m512i cells, __mmask16 valid,
                          const Coefficient& coefficient, __mmask16& outside) {
  const __m512 rounded =
      kEdges ? _mm512_fmadd_round_ps(xs, inverse, offset, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC)
             : _mm512_fmadd_ps(xs, inverse, offset);
  __m512 u = _mm512_fmsub_ps(xs, inverse, _mm512_sub_ps(rounded, offset));
  if (kEdges) u = _mm512_add_ps(u, _mm512_set1_ps(0.5f));
  const __m512i cell =
      _mm512_sub_epi32(_mm512_castps_si512(rounded), _mm512_set1_epi32(kMagicBits + (kEdges ? 1 : 0)));
  outside = _mm512_mask_cmpge_epu32_mask(valid, cell, cells);
  __m512 value = coefficient(kCoefficients - 1, cell);
#pragma GCC unroll 8
  for (int k = kCoefficients - 2; k >= 0; --k) value = _mm512_fmadd_ps(value, u, coefficient(k, cell));
  return value;
}

// y[i] = p(x[i]), times g[i] if kTimes. kTable: 32 cells, whose coefficients stay in registers.
template <bool kTable, bool kTimes, bool kEdges>
void evaluate_run(const Piece& piece, const PiecewiseCall& call, const float* x, const float* g, float* y,
                  int64_t n) {
  const __m512 inverse = _mm512_set1_ps(piece.inverse_width), offset = _mm512_set1_ps(piece.offset);
  const __m512i cells = _mm512_set1_epi32(static_cast<int>(piece.cells));
  __m512 low[kCoefficients], high[kCoefficients];
  if (kTable)
    for (int k = 0; k < kCoefficients; ++k) {
      low[k] = _mm512_loadu_ps(piece.coefficients + k * 32);
      high[k] = _mm512_loadu_ps(piece.coefficients + k * 32 + 16);
    }
  const auto polynomial = [&](__m512 xs, __mmask16 valid, __mmask16& outside) {
    const auto coefficient = [&](int k, __m512i cell) {
      if (kTable) return _mm512_permutex2var_ps(low[k], cell, high[k]);
      return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), valid & ~outside, cell,
                                      piece.coefficients + k * piece.cells, 4);
    };
    return polynomials<kEdges>(xs, inverse, offset, cells, valid, coefficient, outside);
  };
  __mmask16 outside;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {  // whole vectors without a mask: some processors store masked ones slowly
    __m512 value = polynomial(_mm512_loadu_ps(x + i), 0xFFFF, outside);
    if (kTimes) value = _mm512_mul_ps(value, _mm512_loadu_ps(g + i));
    _mm512_storeu_ps(y + i, value);
    if (__builtin_expect(outside, 0))
      evaluate_tail(piece, call, x + i, kTimes ? g + i : nullptr, y + i, outside);
  }
  if (i < n) {
    const __mmask16 valid = static_cast<__mmask16>((1u << (n - i)) - 1);
    __m512 value = polynomial(_mm512_maskz_loadu_ps(valid, x + i), valid, outside);
    if (kTimes) value = _mm512_mul_ps(value, _mm512_maskz_loadu_ps(valid, g + i));
    _mm512_mask_storeu_ps(y + i, valid, value);
    if (outside) evaluate_tail(piece, call, x + i, kTimes ? g + i : nullptr, y + i, outside);
  }
}

void evaluate(const Piece& piece, const PiecewiseCall& call, const float* x, const float* g, float* y,
              int64_t n) {
  decltype(&evaluate_run<true, true, true>) runs[2][2][2] = {
      {{evaluate_run<false, false, false>, evaluate_run<false, false, true>},
       {evaluate_run<false, true, false>, evaluate_run<false, true, true>}},
      {{evaluate_run<true, false, false>, evaluate_run<true, false, true>},
       {evaluate_run<true, true, false>, evaluate_run<true, true, true>}}};
  runs[piece.cells == 32][g != nullptr][call.edges != 0](piece, call, x, g, y, n);
}

// sums (kCopies, fine cells, kMoments) += the moments of g at x; `beyond` gets what add_outside says, if not null.
void add_moments(const Piece& piece, const PiecewiseCall& call, const float* x, const float* g, int64_t n,
                 float* sums, double* beyond) {
  const int64_t copy = copy_stride(piece.cells);
  const float fine_offset = kMagic - (kFine * (kMagic - piece.offset) - (call.edges ? 0 : kFine / 2));
  const __m512 inverse = _mm512_set1_ps(kFine * piece.inverse_width), offset = _mm512_set1_ps(fine_offset);
  const __m512 half = _mm512_set1_ps(0.5f);
  const __m512i magic = _mm512_set1_epi32(kMagicBits), zero = _mm512_setzero_si512();
  const __m512i cells = _mm512_set1_epi32(static_cast<int>(piece.cells * kFine));
  // First where each point's moments go and what they are, then the additions: these are at the mercy of the stores.
  alignas(64) int32_t places[kBatch];
  alignas(64) float terms[kBatch * kMoments];
  const auto prepare = [&](int64_t i, int64_t at, __mmask16 valid) {
    const __m512 xs = _mm512_maskz_loadu_ps(valid, x + i);
    const __m512 floor = _mm512_fmadd_round_ps(xs, inverse, offset, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    const __m512i cell = _mm512_sub_epi32(_mm512_castps_si512(floor), magic);
    const __mmask16 inside = _mm512_mask_cmplt_epu32_mask(valid, cell, cells);
    // A NaN must reach the sums; a point far outside has nothing to add.
    const __mmask16 counts = inside | _mm512_mask_cmp_ps_mask(valid, xs, xs, _CMP_UNORD_Q);
    if (beyond && __builtin_expect(valid & ~counts, 0))
      for (int k = 0; k < 16; ++k)
        if ((valid & ~counts) >> k & 1) add_outside(call, x[i + k], g[i + k], beyond);
    __m512 v = _mm512_sub_ps(_mm512_fmsub_ps(xs, inverse, _mm512_sub_ps(floor, offset)), half);
    v = _mm512_maskz_mov_ps(counts, v);
    const __m512 m0 = _mm512_maskz_loadu_ps(counts, g + i);
    const __m512 m1 = _mm512_mul_ps(m0, v), m2 = _mm512_mul_ps(m1, v), m3 = _mm512_mul_ps(m2, v);
    _mm512_store_si512(places + at, _mm512_slli_epi32(_mm512_mask_mov_epi32(zero, inside, cell), 2));
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(m0, m1));
    const __m512d b = _mm512_castps_pd(_mm512_unpacklo_ps(m2, m3));
    const __m512d c = _mm512_castps_pd(_mm512_unpackhi_ps(m0, m1));
    const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(m2, m3));
    // the moments of the points 0, 4, 8, 12, then of 1, 5, 9, 13, ...
    double* to = reinterpret_cast<double*>(terms + at * kMoments);
    _mm512_store_pd(to, _mm512_unpacklo_pd(a, b));
    _mm512_store_pd(to + 8, _mm512_unpackhi_pd(a, b));
    _mm512_store_pd(to + 16, _mm512_unpacklo_pd(c, d));
    _mm512_store_pd(to + 24, _mm512_unpackhi_pd(c, d));
  };
  for (int64_t start = 0; start < n; start += kBatch) {
    const int64_t count = std::min(kBatch, n - start);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) prepare(start + i, i, 0xFFFF);
    if (i < count) prepare(start + i, i, static_cast<__mmask16>((1u << (count - i)) - 1));
    for (i = 0; i < count; i += 16)
#pragma GCC unroll 16
      for (int k = 0; k < 16; ++k) {
        float* sum = sums + k % kCopies * copy + places[i + k % 4 * 4 + k / 4];
        _mm_store_ps(sum, _mm_add_ps(_mm_load_ps(sum), _mm_load_ps(terms + (i + k) * kMoments)));
      }
  }
}

inline void transpose(__m512 rows[16]) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  for (int round = 0; round < 4; ++round) {
    __m512 next[16];
    for (int r = 0; r < 8; ++r) {
      next[2 * r] = _mm512_permutex2var_ps(rows[r], low, rows[r + 8]);
      next[2 * r + 1] = _mm512_permutex2var_ps(rows[r], high, rows[r + 8]);
    }
    for (int r = 0; r < 16; ++r) rows[r] = next[r];
  }
}

// 16 channels, whose values lie side by side, at 16 points; 32 cells each. What is read, computed and written here
// overlaps, as it does not where a tile is gathered, evaluated and written back.
template <bool kTimes, bool kEdges>
void evaluate_block(const Piece* pieces, const PiecewiseCall& call, const float* x, const float* g, float* y) {
  const __m512i cells = _mm512_set1_epi32(32);
  __m512 rows[16];
  __mmask16 outside[16];
  uint32_t any = 0;
  for (int p = 0; p < 16; ++p) rows[p] = _mm512_loadu_ps(x + p * call.channels);
  transpose(rows);
  for (int c = 0; c < 16; ++c) {
    const float* table = pieces[c].coefficients;
    const auto coefficient = [&](int k, __m512i cell) {
      return _mm512_permutex2var_ps(_mm512_loadu_ps(table + k * 32), cell, _mm512_loadu_ps(table + k * 32 + 16));
    };
    rows[c] = polynomials<kEdges>(rows[c], _mm512_set1_ps(pieces[c].inverse_width), _mm512_set1_ps(pieces[c].offset),
                          cells, 0xFFFF, coefficient, outside[c]);
    any |= outside[c];
  }
  transpose(rows);
  for (int p = 0; p < 16; ++p) {
    if (kTimes) rows[p] = _mm512_mul_ps(rows[p], _mm512_loadu_ps(g + p * call.channels));
    _mm512_storeu_ps(y + p * call.channels, rows[p]);
  }
  if (__builtin_expect(any, 0))
    for (int c = 0; c < 16; ++c)
      for (int p = 0; p < 16; ++p) {
        const int64_t at = p * call.channels + c;
        if (outside[c] >> p & 1) evaluate_tail(pieces[c], call, x + at, kTimes ? g + at : nullptr, y + at, 1);
      }
}

bool is_blocks(const PiecewiseCall& call) {
  return call.interleaved && !call.cotangents && call.cells == 32 && call.channels % 16 == 0 &&
         call.batch * call.positions % 16 == 0;
}

// All channels at some points, then at the next ones: a cache line is not fetched once for each 16 channels.
void evaluate_blocks(const PiecewiseCall& call) {
  const int64_t points = call.batch * call.positions;
  auto* block = call.edges ? (call.g ? evaluate_block<true, true> : evaluate_block<false, true>)
                           : (call.g ? evaluate_block<true, false> : evaluate_block<false, false>);
#pragma omp parallel for num_threads(call.threads) schedule(static)
  for (int64_t start = 0; start < points; start += kTile)
    for (int64_t c0 = 0; c0 < call.channels; c0 += 16) {
      Piece pieces[16];
      for (int64_t c = 0; c < 16; ++c) pieces[c] = piece_of(call, c0 + c);
      for (int64_t p = start; p < std::min(start + kTile, points); p += 16) {
        const int64_t at = p * call.channels + c0;
        block(pieces, call, call.x + at, call.g ? call.g + at : nullptr, call.y + at);
      }
    }
}

// to[c * to_stride + r] = from[r * from_stride + c], 16 x 16
inline void transpose_block(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  __m512 rows[16];
  for (int r = 0; r < 16; ++r) rows[r] = _mm512_loadu_ps(from + r * from_stride);
  transpose(rows);
  for (int r = 0; r < 16; ++r) _mm512_storeu_ps(to + r * to_stride, rows[r]);
}

#else

void evaluate(const Piece& piece, const PiecewiseCall& call, const float* x, const float* g, float* y,
              int64_t n) {
  const float* table = piece.coefficients;
  const bool edges = call.edges;
  for (int64_t start = 0; start < n; start += kTile) {
    const int count = static_cast<int>(std::min<int64_t>(32, n - start));
    int32_t outside[32];
#pragma omp simd
    for (int i = 0; i < count; ++i) {
      float rounded = multiply_add(x[start + i], piece.inverse_width, piece.offset);
      float u = multiply_add(x[start + i], piece.inverse_width, piece.offset - rounded);
      // the least integer not below, where the place itself tells on which side of the nearest one it is
      const bool below = edges && u <= 0, above = edges && u > 0;
      u += below ? 0.5f : above ? -0.5f : 0.0f;
      rounded -= below ? 1 : 0;
      int32_t cell;
      std::memcpy(&cell, &rounded, 4);
      cell -= kMagicBits;
      outside[i] = static_cast<uint32_t>(cell) >= static_cast<uint32_t>(piece.cells);
      cell = outside[i] ? 0 : cell;
      float value = table[6 * piece.cells + cell];
      for (int k = kCoefficients - 2; k >= 0; --k) value = value * u + table[k * piece.cells + cell];
      y[start + i] = g ? value * g[start + i] : value;
    }
    uint32_t lanes = 0;
    for (int i = 0; i < count; ++i) lanes |= static_cast<uint32_t>(outside[i]) << i;
    if (lanes) evaluate_tail(piece, call, x + start, g ? g + start : nullptr, y + start, lanes);
  }
}

void add_moments(const Piece& piece, const PiecewiseCall& call, const float* x, const float* g, int64_t n,
                 float* sums, double* beyond) {
  const int64_t fine = piece.cells * kFine, copy = copy_stride(piece.cells);
  const float first = kFine * (kMagic - piece.offset) - (call.edges ? 0 : kFine / 2);
  for (int64_t i = 0; i < n; ++i) {
    const float inverse = kFine * piece.inverse_width;
    const float floor = std::floor(x[i] * inverse), cell = floor - first;
    const bool inside = cell >= 0 && cell < fine;
    if (!inside && !std::isnan(x[i])) {
      if (beyond) add_outside(call, x[i], g[i], beyond);
      continue;
    }
    float* sum = sums + (i % kCopies) * copy + (inside ? static_cast<int64_t>(cell) * kMoments : 0);
    const float v = multiply_add(x[i], inverse, -floor) - 0.5f;
    float term = g[i];
    for (int m = 0; m < kMoments; ++m, term *= v) sum[m] += term;
  }
}

bool is_blocks(const PiecewiseCall&) { return false; }
void evaluate_blocks(const PiecewiseCall&) {}

inline void transpose_block(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  for (int r = 0; r < 16; ++r)
    for (int c = 0; c < 16; ++c) to[c * to_stride + r] = from[r * from_stride + c];
}

#endif

// The `lanes` channels from c0 on at n points, to or from a tile of kTile points a channel. Points are counted
// over batch and positions, or, where not interleaved, `at` and n are whole rows of `positions`.
template <bool kGather>
void move_tile(const PiecewiseCall& call, float* tensor, int64_t c0, int64_t lanes, int64_t at, int64_t n,
               float* tile) {
  if (!call.interleaved) {
    const int64_t size = call.positions;
    for (int64_t b = at / size; b < (at + n) / size; ++b)
      for (int64_t c = 0; c < lanes; ++c) {
        float* row = tensor + (b * call.channels + c0 + c) * size;
        float* place = tile + c * kTileStride + b * size - at;
        std::memcpy(kGather ? place : row, kGather ? row : place, sizeof(float) * size);
      }
    return;
  }
  float* from = tensor + at * call.channels + c0;
  int64_t p = 0;
  if (lanes == kLanes)
    for (; p + 16 <= n; p += 16) {
      if (kGather) transpose_block(from + p * call.channels, call.channels, tile + p, kTileStride);
      else transpose_block(tile + p, kTileStride, from + p * call.channels, call.channels);
    }
  for (; p < n; ++p)
    for (int64_t c = 0; c < lanes; ++c) {
      if (kGather) tile[c * kTileStride + p] = from[p * call.channels + c];
      else from[p * call.channels + c] = tile[c * kTileStride + p];
    }
}

// The moments of one channel: float sums, moved to double before they grow.
struct Sums {
  float* sums;
  double* total;
  const PiecewiseCall* call;
  double* beyond;
  int64_t cells, pending = 0;

  void add(const Piece& piece, const float* x, const float* g, int64_t n) {
    if (pending + n > kFlush) flush();
    add_moments(piece, *call, x, g, n, sums, beyond);
    pending += n;
  }

  void flush() {
    const int64_t size = cells * kFine * kMoments, copy = copy_stride(cells);
    static_assert(kCopies == 2);
    for (int64_t i = 0; i < size; ++i) total[i] += static_cast<double>(sums[i]) + sums[copy + i];
    std::memset(sums, 0, sizeof(float) * kCopies * copy);
    pending = 0;
  }

  // cotangents (cells, 7) = the moments of each cell times to_nodes, whose rows are padded to 8
  void finish(const double* to_nodes, double* cotangents) {
    flush();
    constexpr int kChains = 4;  // cells at a time, so that no addition waits for its last
    for (int64_t cell = 0; cell < cells; cell += kChains) {
      const double* moments = total + cell * kFine * kMoments;
      Eight sums[kChains] = {};
      for (int m = 0; m < kFine * kMoments; ++m) {
        const Eight weights = load(to_nodes + m * kPadded);
        for (int chain = 0; chain < kChains; ++chain) sums[chain] += moments[chain * kFine * kMoments + m] * weights;
      }
      for (int chain = 0; chain < kChains; ++chain)
        std::memcpy(cotangents + (cell + chain) * kCoefficients, &sums[chain], sizeof(double) * kCoefficients);
    }
    std::memset(total, 0, sizeof(double) * cells * kFine * kMoments);
  }
};

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a call is cut: by its shape alone. A group of channels is done together at `step` points of each.
struct Plan {
  int64_t group, points, step, blocks, block;
  bool tiled;  // through copies in which the points of a channel are neighbours; else row by row where they lie

  explicit Plan(const PiecewiseCall& call) {
    const int64_t row = call.interleaved ? 1 : std::max<int64_t>(1, call.positions);
    tiled = row < kShortRow;
    step = std::max<int64_t>(1, (tiled ? kTile : kRows) / row) * row;  // whole rows
    group = tiled ? kLanes : std::clamp<int64_t>(32 * kRows / step, 1, kLanes);
    points = call.batch * call.positions;
    block = std::max<int64_t>(1, kItem / step) * step;
    blocks = divide_up(points, block);
  }
};

// A thread's memory from one call to the next, zero at first: getting it anew would cost a small call half its time.
template <typename T>
struct Buffer {
  T* at_least(int64_t size) {
    if (static_cast<int64_t>(storage.size()) < size + 16) storage.assign(size + 16, T(0));
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(storage.data()) + 63) / 64 * 64);
  }
  std::vector<T> storage;
};
thread_local Buffer<float> sums_buffer, tiles_buffer;
thread_local Buffer<double> totals_buffer;

// The work on one group of channels in one block of points. It leaves the sums and totals at zero, as it found them.
struct Worker {
  const PiecewiseCall& call;
  const Plan& plan;
  const int64_t size = call.cells * kFine * kMoments, copies = kCopies * copy_stride(call.cells);
  float* const sums = sums_buffer.at_least(call.cotangents ? plan.group * copies : 0);
  double* const totals = totals_buffer.at_least(call.cotangents ? plan.group * size : 0);
  float* const tiles = tiles_buffer.at_least(plan.tiled ? 3 * plan.group * kTileStride : 0);
  Piece pieces[kLanes];
  Sums moments[kLanes];

  Worker(const PiecewiseCall& call, const Plan& plan) : call(call), plan(plan) {}

  void tile(int64_t c0, int64_t lanes, int64_t at, int64_t n) {
    float *x = tiles, *g = x + plan.group * kTileStride, *y = g + plan.group * kTileStride;
    move_tile<true>(call, const_cast<float*>(call.x), c0, lanes, at, n, x);
    if (call.g) move_tile<true>(call, const_cast<float*>(call.g), c0, lanes, at, n, g);
    for (int64_t c = 0; c < lanes; ++c) {
      const float *xs = x + c * kTileStride, *gs = call.g ? g + c * kTileStride : nullptr;
      if (call.coefficients) evaluate(pieces[c], call, xs, gs, y + c * kTileStride, n);
      if (call.cotangents) moments[c].add(pieces[c], xs, gs, n);
    }
    if (call.coefficients) move_tile<false>(call, call.y, c0, lanes, at, n, y);
  }

  // In the order of memory for the values; then channel by channel, so that one channel's sums stay near.
  void rows(int64_t c0, int64_t lanes, int64_t at, int64_t n) {
    const int64_t size = call.positions, first = at / size, last = (at + n) / size;
    const auto start = [&](int64_t b, int64_t c) { return (b * call.channels + c0 + c) * size; };
    if (call.coefficients)
      for (int64_t b = first; b < last; ++b)
        for (int64_t c = 0; c < lanes; ++c) {
          const int64_t row = start(b, c);
          evaluate(pieces[c], call, call.x + row, call.g ? call.g + row : nullptr, call.y + row, size);
        }
    if (call.cotangents)
      for (int64_t c = 0; c < lanes; ++c)
        for (int64_t b = first; b < last; ++b)
          for (int64_t p = 0; p < size; p += kFlush) {
            const int64_t row = start(b, c) + p;
            moments[c].add(pieces[c], call.x + row, call.g + row, std::min(kFlush, size - p));
          }
  }

  void run(int64_t block, int64_t c0) {
    const int64_t lanes = std::min(plan.group, call.channels - c0);
    for (int64_t c = 0; c < lanes; ++c) {
      pieces[c] = piece_of(call, c0 + c);
      double* beyond = call.outside ? call.outside + (block * call.channels + c0 + c) * 5 : nullptr;
      moments[c] = {sums + c * copies, totals + c * size, &call, beyond, call.cells};
    }
    const int64_t end = std::min(plan.points, (block + 1) * plan.block);
    for (int64_t at = block * plan.block; at < end; at += plan.step) {
      const int64_t n = std::min(plan.step, end - at);
      if (plan.tiled) tile(c0, lanes, at, n);
      else rows(c0, lanes, at, n);
    }
    if (call.cotangents)
      for (int64_t c = 0; c < lanes; ++c)
        moments[c].finish(call.to_nodes,
                          call.cotangents + (block * call.channels + c0 + c) * call.cells * kCoefficients);
  }
};

// exp(y) for |y| < 700 (below: as for -700) to 1e-10.
inline Eight exponential(Eight y) {
  const Eight least = Eight{} - 700.0;
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  const Eight scaled = (y > least ? y : least) * 1.4426950408889634;
  const Eight rounded = scaled + kRound;
  const Eight f = (scaled - (rounded - kRound)) * 0.6931471805599453;
  Eight p = 1.0 / 5040 + f * (1.0 / 40320);
  p = 1.0 / 720 + f * p;
  p = 1.0 / 120 + f * p;
  p = 1.0 / 24 + f * p;
  p = 1.0 / 6 + f * p;
  p = 1.0 + f * (1.0 + f * (0.5 + f * p));
  return p * (Eight)(((EightBits)rounded << 52) + 0x3FF0000000000000);
}

// One kernel at the nodes of one cell after another: u = node - d, kappa = exp(-gamma u^2). A cell further on u has
// grown by a width w, and kappa by exp(-gamma w (2 u + w)), which itself shrinks by exp(-2 gamma w^2) a cell.
struct Kernel {
  int64_t begin, end;  // the cells in which more than 1e-9 of it is left
  Eight u, kappa, ratio;
  double shrink, width;

  Kernel(const PiecewiseCall& call, int64_t channel, int64_t term, Eight places) {
    const int64_t at = channel * call.grid_stride;
    const double d = call.dictionary[channel * call.dictionary_stride + term];
    const double gamma = call.bandwidth[channel * call.bandwidth_stride];
    const double inverse = call.inverse_width[at], reach = std::sqrt(20.7 / gamma), first = call.first[at];
    const double shift = call.edges ? 0.5 : 0.0;  // of a cell's middle
    const auto cell = [&](double x) {
      return static_cast<int64_t>(std::clamp(x * inverse - first + 0.5 - shift, 0.0, static_cast<double>(call.cells)));
    };
    begin = cell(d - reach);
    end = std::min(cell(d + reach) + 1, call.cells);
    width = 1 / inverse;
    shrink = std::exp(-2 * gamma * width * width);
    u = (places + (first + shift + static_cast<double>(begin))) * width - d;
    kappa = exponential(-gamma * u * u);
    ratio = exponential(-gamma * width * (2 * u + width));
  }

  void next() {
    u += width;
    kappa *= ratio;
    ratio *= shrink;
  }
};

}  // namespace

extern "C" {

// The first dimension of `cotangents`.
int64_t piecewise_blocks(const PiecewiseCall* call) { return Plan(*call).blocks; }

void piecewise_run(const PiecewiseCall* call) {
  if (is_blocks(*call)) return evaluate_blocks(*call);
  const Plan plan(*call);
  const int64_t items = divide_up(call->channels, plan.group) * plan.blocks;
#pragma omp parallel num_threads(call->threads)
  {
    Worker worker(*call, plan);
#pragma omp for schedule(static)
    for (int64_t item = 0; item < items; ++item)
      worker.run(item % plan.blocks, item / plan.blocks * plan.group);
  }
}

// Samples the mixture of Gaussians, or its derivative, at the nodes (places[8] in each cell: 7 and a spare one) and
// interpolates: table (channels, 7, cells) gets the coefficients, the samples of each cell times interpolation (7, 8).
void piecewise_interpolate(const PiecewiseCall* call, const double* places, const double* interpolation,
                           float* table) {
  const int64_t cells = call->cells;
#pragma omp parallel for num_threads(call->threads) schedule(static)
  for (int64_t c = 0; c < call->channels; ++c) {
    std::vector<Eight> samples(cells, Eight{});
    const double gamma = call->bandwidth[c * call->bandwidth_stride];
    for (int64_t i = 0; i < call->terms; ++i) {
      const double a = call->alpha[c * call->terms + i];
      const double constant = call->derivative ? 0 : a, linear = call->derivative ? -2 * gamma * a : 0;
      Kernel kernel(*call, c, i, load(places));
      for (int64_t cell = kernel.begin; cell < kernel.end; ++cell, kernel.next())
        samples[cell] += kernel.kappa * (constant + linear * kernel.u);
    }
    for (int64_t cell = 0; cell < cells; ++cell) {
      Eight sum = {};
      for (int j = 0; j < kCoefficients; ++j) sum += load(interpolation + j * kPadded) * samples[cell][j];
      for (int k = 0; k < kCoefficients; ++k)
        table[(c * kCoefficients + k) * cells + cell] = static_cast<float>(sum[k]);
    }
  }
}

// The chain rule at the nodes: sums of the cotangents (channels, cells, 7) times kappa, u kappa and u^2 kappa,
// each (channels, terms), with u = node - d_i.
void piecewise_project(const PiecewiseCall* call, const double* places, const double* cotangents, double* zeroth,
                       double* first, double* second) {
#pragma omp parallel for num_threads(call->threads) schedule(static)
  for (int64_t c = 0; c < call->channels; ++c) {
    std::vector<Eight> padded(call->cells, Eight{});
    for (int64_t cell = 0; cell < call->cells; ++cell)
      std::memcpy(&padded[cell], cotangents + (c * call->cells + cell) * kCoefficients,
                  sizeof(double) * kCoefficients);
    for (int64_t i = 0; i < call->terms; ++i) {
      Eight s0 = {}, s1 = {}, s2 = {};
      Kernel kernel(*call, c, i, load(places));
      for (int64_t cell = kernel.begin; cell < kernel.end; ++cell, kernel.next()) {
        const Eight term = padded[cell] * kernel.kappa, by_u = term * kernel.u;
        s0 += term;
        s1 += by_u;
        s2 += by_u * kernel.u;
      }
      const int64_t at = c * call->terms + i;
      zeroth[at] = sum_of(s0);
      first[at] = sum_of(s1);
      second[at] = sum_of(s2);
    }
  }
}
}
