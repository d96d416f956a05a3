// Normalisation by the statistics of a batch, addition and activation in as few passes over memory as there can be,
// forward and backward, for float32 images whose channels lie side by side (channels-last).
//
//   total = x + added,  z = (total - mean) * scale + bias + residual,  y = f(z),  scale = weight / deviation
//
// Forward: one pass for `total` and the statistics, one for y. Backward: one pass for the sums of the gradient g at z
// and of g (total - mean), one for the gradient at x; g itself is computed again there, or stored by the first.
//
// Plain C interface, no dependencies, so that any C++ compiler builds it in seconds. Every sum is cut into blocks by
// the shape alone: results do not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

extern "C" {

struct NormaliseCall {
  const float* x;         // (points, channels), as all that is not said to be otherwise
  const float* added;     // or null
  float* total;           // written if `added` is given; else x itself
  const float* residual;  // or null
  float* y;
  const float* grad;       // at y
  const float* other_grad; // at y too, to be added; or null
  float* slopes;           // the gradient at z: written if not null
  float* grad_x;
  double* partials;     // (2, blocks, channels)
  double* mean;         // (channels)
  double* variance;     // (channels): of the batch, divided by the number of points
  double* sums;         // (2, channels): of g and of g (total - mean)
  const float* weight;  // (channels), or null: 1
  const float* bias;    // (channels), or null: 0
  double eps;
  int64_t points, channels;
  float parameter;  // of the activation
  int32_t activation, threads;
};
}

namespace {

constexpr int kLanes = 16;
constexpr int kMostVectors = 4;        // of a point: 64 channels are done together
constexpr int64_t kChunk = 128;        // points summed in float before they go to double; they stay in the cache
constexpr int64_t kBlock = 64 * 1024;  // elements of a piece of work

typedef float Vector __attribute__((vector_size(64)));  // GCC's and clang's, on any processor
typedef int32_t Bits __attribute__((vector_size(64)));

inline Vector load(const float* from) {
  Vector to;
  std::memcpy(&to, from, sizeof to);
  return to;
}

inline void store(float* to, Vector from) { std::memcpy(to, &from, sizeof from); }

// exp(x) to 2e-7 of itself; NaN stays.
inline Vector exponential(Vector x) {
  const Vector zero = {};
  x = x > 88.0f ? zero + 88.0f : x;
  x = x < -87.0f ? zero - 87.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  const Vector rounded = x * 1.44269504f + kRound;
  const Vector n = rounded - kRound;
  const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = 1.0f / 120 + r * (1.0f / 720);
  p = 1.0f / 24 + r * p;
  p = 1.0f / 6 + r * p;
  p = 0.5f + r * p;
  p = 1.0f + r * (1.0f + r * p);
  return p * (Vector)(((Bits)rounded << 23) + 0x3F800000);
}

inline Vector sigmoid(Vector z) { return 1.0f / (1.0f + exponential(-z)); }

// f(z), and g f'(z)
struct Identity {
  static Vector value(Vector z, float) { return z; }
  static Vector back(Vector, Vector g, float) { return g; }
};

struct Relu {
  static Vector value(Vector z, float) { return z <= 0 ? Vector{} : z; }
  static Vector back(Vector z, Vector g, float) { return z <= 0 ? Vector{} : g; }
};

struct Elu {
  static Vector value(Vector z, float a) { return z > 0 ? z : a * (exponential(z) - 1.0f); }
  static Vector back(Vector z, Vector g, float a) { return z > 0 ? g : g * (a * exponential(z)); }
};

struct Silu {
  static Vector value(Vector z, float) { return z * sigmoid(z); }
  static Vector back(Vector z, Vector g, float) {
    const Vector s = sigmoid(z);
    return g * (s * (1.0f + z * (1.0f - s)));
  }
};

int64_t block_points(const NormaliseCall& call) {
  return std::max<int64_t>(1, kBlock / call.channels / kChunk) * kChunk;
}

int64_t block_count(const NormaliseCall& call) {
  const int64_t size = block_points(call);
  return (call.points + size - 1) / size;
}

// What the mean loses as a float: put right where it is subtracted, a mean far from zero costs no digits.
inline double lost(const NormaliseCall& call, int64_t c) { return static_cast<float>(call.mean[c]) - call.mean[c]; }

// What is the same for all points, of `n` vectors of channels from `first` on.
template <int n>
struct Channels {
  Vector mean[n], scale[n], bias[n];

  Channels(const NormaliseCall& call, int64_t first) {
    for (int k = 0; k < n; ++k)
      for (int i = 0; i < kLanes; ++i) {
        const int64_t c = first + k * kLanes + i;
        mean[k][i] = static_cast<float>(call.mean[c]);
        const double factor = (call.weight ? call.weight[c] : 1.0) / std::sqrt(call.variance[c] + call.eps);
        scale[k][i] = static_cast<float>(factor);
        bias[k][i] = static_cast<float>((call.bias ? call.bias[c] : 0.0) + factor * lost(call, c));
      }
  }

  Vector before(const NormaliseCall& call, const float* total, int64_t at, int k) const {
    const Vector z = (load(total + at) - mean[k]) * scale[k] + bias[k];
    return call.residual ? z + load(call.residual + at) : z;
  }
};

inline Vector gradient(const NormaliseCall& call, int64_t at) {
  const Vector g = load(call.grad + at);
  return call.other_grad ? g + load(call.other_grad + at) : g;
}

// Mean and sum of squared deviations of a block, chunk by chunk: squares of the values themselves would cancel. What
// the rounded mean of a chunk leaves is added to it afterwards.
template <int n>
struct Statistics {
  static void run(const NormaliseCall& call, int64_t first, int64_t begin, int64_t end, int64_t block) {
    double means[n * kLanes] = {}, squares[n * kLanes] = {};
    const float* total = call.added ? call.total : call.x;
    for (int64_t start = begin; start < end; start += kChunk) {
      const int64_t stop = std::min(end, start + kChunk);
      const float count = static_cast<float>(stop - start);
      Vector sum[n] = {}, rest[n] = {}, square[n] = {};
      for (int64_t p = start; p < stop; ++p)
        for (int k = 0; k < n; ++k) {
          const int64_t at = p * call.channels + first + k * kLanes;
          Vector value = load(call.x + at);
          if (call.added) {
            value += load(call.added + at);
            store(call.total + at, value);
          }
          sum[k] += value;
        }
      for (int k = 0; k < n; ++k) sum[k] /= count;
      for (int64_t p = start; p < stop; ++p)
        for (int k = 0; k < n; ++k) {
          const Vector apart = load(total + p * call.channels + first + k * kLanes) - sum[k];
          rest[k] += apart;
          square[k] += apart * apart;
        }
      const double before = static_cast<double>(start - begin), share = count / (before + count);
      for (int k = 0; k < n; ++k)
        for (int i = 0; i < kLanes; ++i) {
          const int c = k * kLanes + i;
          const double left = rest[k][i] / count, apart = sum[k][i] + left - means[c];
          means[c] += apart * share;
          squares[c] += square[k][i] - left * left * count + apart * apart * before * share;
        }
    }
    const int64_t blocks = block_count(call);
    std::copy(means, means + n * kLanes, call.partials + block * call.channels + first);
    std::copy(squares, squares + n * kLanes, call.partials + (blocks + block) * call.channels + first);
  }
};

template <typename Activation>
struct Apply {
  template <int n>
  struct Of {
    static void run(const NormaliseCall& call, int64_t first, int64_t begin, int64_t end, int64_t) {
      const Channels<n> channels(call, first);
      const float* total = call.added ? call.total : call.x;
      for (int64_t p = begin; p < end; ++p)
        for (int k = 0; k < n; ++k) {
          const int64_t at = p * call.channels + first + k * kLanes;
          store(call.y + at, Activation::value(channels.before(call, total, at, k), call.parameter));
        }
    }
  };
};

template <typename Activation>
struct Sums {
  template <int n>
  struct Of {
    static void run(const NormaliseCall& call, int64_t first, int64_t begin, int64_t end, int64_t block) {
      const Channels<n> channels(call, first);
      double totals[2][n * kLanes] = {};
      for (int64_t start = begin; start < end; start += kChunk) {
        Vector sum[n] = {}, moment[n] = {};
        for (int64_t p = start; p < std::min(end, start + kChunk); ++p)
          for (int k = 0; k < n; ++k) {
            const int64_t at = p * call.channels + first + k * kLanes;
            const Vector z = channels.before(call, call.x, at, k);
            const Vector g = Activation::back(z, gradient(call, at), call.parameter);
            if (call.slopes) store(call.slopes + at, g);
            sum[k] += g;
            moment[k] += g * (load(call.x + at) - channels.mean[k]);
          }
        for (int k = 0; k < n; ++k)
          for (int i = 0; i < kLanes; ++i) {
            totals[0][k * kLanes + i] += sum[k][i];
            totals[1][k * kLanes + i] += moment[k][i];
          }
      }
      const int64_t blocks = block_count(call);
      for (int which = 0; which < 2; ++which)
        std::copy(totals[which], totals[which] + n * kLanes,
                  call.partials + (which * blocks + block) * call.channels + first);
    }
  };
};

template <typename Activation>
struct Input {
  template <int n>
  struct Of {
    static void run(const NormaliseCall& call, int64_t first, int64_t begin, int64_t end, int64_t) {
      const Channels<n> channels(call, first);
      Vector shift[n], tilt[n];
      for (int k = 0; k < n; ++k)
        for (int i = 0; i < kLanes; ++i) {
          const int64_t c = first + k * kLanes + i;
          const double points = static_cast<double>(call.points);
          const double slope = call.sums[call.channels + c] / points / (call.variance[c] + call.eps);
          shift[k][i] = static_cast<float>(call.sums[c] / points + slope * lost(call, c));
          tilt[k][i] = static_cast<float>(slope);
        }
      for (int64_t p = begin; p < end; ++p)
        for (int k = 0; k < n; ++k) {
          const int64_t at = p * call.channels + first + k * kLanes;
          const Vector g = call.slopes ? load(call.slopes + at)
                                       : Activation::back(channels.before(call, call.x, at, k), gradient(call, at),
                                                          call.parameter);
          const Vector apart = load(call.x + at) - channels.mean[k];
          store(call.grad_x + at, channels.scale[k] * (g - shift[k] - apart * tilt[k]));
        }
    }
  };
};

// Kernel<n>::run for all channels of all blocks.
template <template <int> class Kernel>
void over_blocks(const NormaliseCall& call) {
  const int64_t size = block_points(call), blocks = block_count(call);
#pragma omp parallel for num_threads(call.threads) schedule(static)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = block * size, end = std::min(call.points, begin + size);
    int64_t first = 0;
    for (; first + 4 * kLanes <= call.channels; first += 4 * kLanes) Kernel<4>::run(call, first, begin, end, block);
    for (; first + 2 * kLanes <= call.channels; first += 2 * kLanes) Kernel<2>::run(call, first, begin, end, block);
    for (; first < call.channels; first += kLanes) Kernel<1>::run(call, first, begin, end, block);
  }
}

template <template <typename> class Kernel>
void with_activation(const NormaliseCall& call) {
  switch (call.activation) {
    case 1: return over_blocks<Kernel<Relu>::template Of>(call);
    case 2: return over_blocks<Kernel<Elu>::template Of>(call);
    case 3: return over_blocks<Kernel<Silu>::template Of>(call);
    default: return over_blocks<Kernel<Identity>::template Of>(call);
  }
}

}  // namespace

extern "C" {

// The second dimension of `partials`.
int64_t normalise_blocks(const NormaliseCall* call) { return block_count(*call); }

// Writes y, total, mean and variance.
void normalise_forward(const NormaliseCall* call) {
  over_blocks<Statistics>(*call);
  const int64_t size = block_points(*call), blocks = block_count(*call);
  for (int64_t c = 0; c < call->channels; ++c) {
    double mean = 0, squares = 0;
    for (int64_t block = 0; block < blocks; ++block) {
      const double before = static_cast<double>(block * size);
      const double count = static_cast<double>(std::min(call->points, (block + 1) * size)) - before;
      const double apart = call->partials[block * call->channels + c] - mean;
      mean += apart * count / (before + count);
      squares += call->partials[(blocks + block) * call->channels + c] + apart * apart * before * count / (before + count);
    }
    call->mean[c] = mean;
    call->variance[c] = squares / static_cast<double>(call->points);
  }
  with_activation<Apply>(*call);
}

// x is `total` here. Writes slopes, grad_x and sums.
void normalise_backward(const NormaliseCall* call) {
  with_activation<Sums>(*call);
  const int64_t blocks = block_count(*call);
  for (int64_t i = 0; i < 2 * call->channels; ++i) {
    double sum = 0;
    const double* partials = call->partials + i / call->channels * blocks * call->channels + i % call->channels;
    for (int64_t block = 0; block < blocks; ++block) sum += partials[block * call->channels];
    call->sums[i] = sum;
  }
  for (int64_t c = 0; c < call->channels; ++c) call->sums[call->channels + c] += lost(*call, c) * call->sums[c];
  with_activation<Input>(*call);
}
}
