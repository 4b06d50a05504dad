// Activations and their derivatives on vectors, for one instruction set.
#pragma once

#include "cpu/isa/tile.h"
#include "mlp_network.h"

namespace jpmap {
namespace JPMAP_ISA {

#define JPMAP_VECTOR_INLINE static inline __attribute__((always_inline))

// Shift-and-scale constants of the exponential: adding `magic` rounds to an integer, which then
// stands in the low bits.
template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  using Integer = int32_t;
  static constexpr float magic = 12582912.0f, log2e = 1.44269504f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float least = -87.0f, largest = 88.0f;
  static constexpr float ln2 = 0.693147180559945309f, least_normal = 1.17549435e-38f;
  static constexpr int mantissa = 23, bias = 127, degree = 7, log_terms = 9;
};
template <>
struct ExpConstants<double> {
  using Integer = int64_t;
  static constexpr double magic = 6755399441055744.0, log2e = 1.4426950408889634;
  static constexpr double ln2_high = 0.693145751953125, ln2_low = 1.42860682030941723212e-6;
  static constexpr double least = -708.0, largest = 709.0;
  static constexpr double ln2 = 0.693147180559945309, least_normal = 2.2250738585072014e-308;
  static constexpr int mantissa = 52, bias = 1023, degree = 13, log_terms = 18;
};

template <class T>
struct Lanes {
  typedef T Value __attribute__((vector_size(kVectorBytes)));
  typedef typename ExpConstants<T>::Integer Bits __attribute__((vector_size(kVectorBytes)));
};

// exp(x) - 1 = 2^n (exp(r) - 1) + (2^n - 1) with x = n ln 2 + r; accurate near 0 too.
template <class T>
JPMAP_VECTOR_INLINE typename Lanes<T>::Value expm1_of(typename Lanes<T>::Value x) {
  using V = typename Lanes<T>::Value;
  using B = typename Lanes<T>::Bits;
  using C = ExpConstants<T>;
  x = x < C::least ? V{} + C::least : x;
  x = x > C::largest ? V{} + C::largest : x;
  const V shifted = x * C::log2e + C::magic;
  const V n = shifted - C::magic;
  const V r = x - n * C::ln2_high - n * C::ln2_low;
  T inverse_factorial = 1;
  T coefficients[C::degree + 1];
#pragma GCC unroll 16
  for (int i = 1; i <= C::degree; ++i) coefficients[i] = inverse_factorial /= static_cast<T>(i);
  V series = V{} + coefficients[C::degree];
#pragma GCC unroll 16
  for (int i = C::degree - 1; i >= 1; --i) series = series * r + coefficients[i];
  const B exponent = (reinterpret_cast<B>(shifted) + C::bias) << C::mantissa;
  const V power = reinterpret_cast<V>(exponent);
  return power * (series * r) + (power - T(1));
}

template <class T>
JPMAP_VECTOR_INLINE typename Lanes<T>::Value sigmoid_of(typename Lanes<T>::Value x) {
  return T(1) / (expm1_of<T>(-x) + T(2));
}

// log(1 + u) for u in [-1/2, 1] as 2 atanh(u / (2 + u)).
template <class T>
JPMAP_VECTOR_INLINE typename Lanes<T>::Value log1p_of(typename Lanes<T>::Value u) {
  using V = typename Lanes<T>::Value;
  const V s = u / (u + T(2)), square = s * s;
  V series = V{};
#pragma GCC unroll 32
  for (int i = ExpConstants<T>::log_terms - 1; i >= 0; --i) {
    series = series * square + T(1) / static_cast<T>(2 * i + 1);
  }
  return T(2) * s * series;
}

// log(x) of normal numbers x > 0, NaN for any other: x = 2^e (1 + u) with 1 + u in [3/4, 3/2).
template <class T>
JPMAP_VECTOR_INLINE typename Lanes<T>::Value log_of(typename Lanes<T>::Value x) {
  using V = typename Lanes<T>::Value;
  using B = typename Lanes<T>::Bits;
  using C = ExpConstants<T>;
  const B bits = reinterpret_cast<B>(x);
  const B half = B{} + (typename C::Integer{1} << (C::mantissa - 1));
  // Half a mantissa more carries what is 3/2 and beyond into the exponent.
  const B exponent = ((bits + half) >> C::mantissa) - C::bias;
  const V mantissa = reinterpret_cast<V>(bits - (exponent << C::mantissa));
  const V found = __builtin_convertvector(exponent, V) * C::ln2 + log1p_of<T>(mantissa - T(1));
  const V none = (x - x) / (x - x);
  return (x >= C::least_normal) & (x - x == T(0)) ? found : none;
}

// h = f(a), d = f'(a) and d2 = f''(a); what a caller does not use is not computed.
template <class T>
JPMAP_VECTOR_INLINE void evaluate(Activation kind, typename Lanes<T>::Value a,
                                  typename Lanes<T>::Value& h, typename Lanes<T>::Value& d,
                                  typename Lanes<T>::Value& d2) {
  using V = typename Lanes<T>::Value;
  h = a, d = V{} + T(1), d2 = V{};
  switch (kind) {
    case Activation::kElu:
      h = a > T(0) ? a : expm1_of<T>(a);
      d = a > T(0) ? d : h + T(1);
      d2 = a > T(0) ? V{} : d;
      break;
    case Activation::kRelu:
      h = a < T(0) ? V{} : a;  // not a number stays none
      d = a > T(0) ? d : V{};
      break;
    case Activation::kSilu: {
      const V s = sigmoid_of<T>(a);
      h = a * s;
      d = s + h * (T(1) - s);
      d2 = s * (T(1) - s) * (T(2) + a * (T(1) - T(2) * s));
      break;
    }
    case Activation::kSoftplus: {
      const V size = a > T(0) ? a : -a;
      h = (a > T(0) ? a : V{}) + log1p_of<T>(expm1_of<T>(-size) + T(1));
      d = sigmoid_of<T>(a);
      d2 = d * (T(1) - d);
      break;
    }
    case Activation::kTanh:
      // tanh(a) = e / (e + 2), e = exp(2 a) - 1, for a <= 0, and odd.
      h = expm1_of<T>(T(2) * (a > T(0) ? -a : a));
      h = h / (h + T(2));
      h = a > T(0) ? -h : h;
      d = T(1) - h * h;
      d2 = T(-2) * h * d;
      break;
    case Activation::kSigmoid:
      h = sigmoid_of<T>(a);
      d = h * (T(1) - h);
      d2 = d * (T(1) - T(2) * h);
      break;
    case Activation::kIdentity:
      break;
  }
}

// value = f(value + bias), slope and bend its first and second derivative, kPanel numbers each.
template <class T>
static inline void activate(Activation kind, const T* bias, T* value, T* slope, T* bend) {
  using V = typename Lanes<T>::Value;
  using Stored = typename VectorOf<T>::type;
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  for (int v = 0; v < kVectors; ++v) {
    const V a = *reinterpret_cast<const Stored*>(value + v * kWidth) +
                *reinterpret_cast<const Stored*>(bias + v * kWidth);
    V h, d, d2;
    evaluate<T>(kind, a, h, d, d2);
    *reinterpret_cast<Stored*>(value + v * kWidth) = h;
    *reinterpret_cast<Stored*>(slope + v * kWidth) = d;
    *reinterpret_cast<Stored*>(bend + v * kWidth) = d2;
  }
}

// values[rows][kPanel] = f(values + bias[kPanel]), rows `stride` apart.
template <class T>
static void activate_panel(Activation kind, const T* bias, T* values, int64_t rows,
                           int64_t stride) {
  using V = typename Lanes<T>::Value;
  using Stored = typename VectorOf<T>::type;
  constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(T));
  for (int64_t row = 0; row < rows; ++row) {
    for (int v = 0; v < kVectors; ++v) {
      Stored* place = reinterpret_cast<Stored*>(values + row * stride + v * kWidth);
      V h, d, d2;
      evaluate<T>(kind, *place + *reinterpret_cast<const Stored*>(bias + v * kWidth), h, d, d2);
      *place = h;
    }
  }
}

}  // namespace JPMAP_ISA
}  // namespace jpmap
