// Vectors of the instruction set that the including file is compiled for: its `Isa`.
//
// Such a file defines `Isa` in the anonymous namespace before it includes the kernels. Nothing in
// them has linkage, nor comes from the standard library: a linker would merge the copies of
// different instruction sets.
#pragma once

#include <cstdint>
#include <cstring>

#include "engine/native/operators/kernels.h"

namespace llmsrec {
namespace {

constexpr int kWidth = Isa::kWidth;
constexpr int kTile = 2 * kWidth;     // columns of a tile
constexpr float kRounder = 12582912;  // 1.5 x 2^23: adding it rounds to an integer

using Ints = Isa::Ints;
typedef float Floats __attribute__((vector_size(kWidth * sizeof(float))));
typedef int16_t Shorts __attribute__((vector_size(kWidth * sizeof(int16_t))));
static_assert(kPanel % kTile == 0 && kBlock % kWidth == 0);

template <typename Vector>
inline Vector Load(const void* source) {
  Vector vector;
  std::memcpy(&vector, source, sizeof(vector));
  return vector;
}

template <typename Vector>
inline void Store(void* target, const Vector& vector) {
  std::memcpy(target, &vector, sizeof(vector));
}

inline Floats Fill(float value) { return value - Floats{}; }

inline float Sum(Floats vector) {
  float lanes[kWidth];
  Store(lanes, vector);
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

// With n = round(x / ln 2), exp(x) = 2^n exp(x - n ln 2), the latter by its series.
inline Floats Exp(Floats x) {
  x = x < -87 ? Fill(-87) : x;  // beyond, the result is no normal number; a NaN stays
  x = x > 87 ? Fill(87) : x;
  const Floats shifted = x * 1.44269504f + kRounder;
  const Floats n = shifted - kRounder;
  const Floats rest = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts
  Floats power = Fill(1.f / 720);
  power = power * rest + 1.f / 120;
  power = power * rest + 1.f / 24;
  power = power * rest + 1.f / 6;
  power = power * rest + 1.f / 2;
  power = power * rest + 1.f;
  power = power * rest + 1.f;
  return power * Floats((Ints(shifted) + 127) << 23);
}

// Vector by vector: an array that is cleared as a whole would stay on the stack.
template <typename Vector, int num_rows>
inline void Clear(Vector (&sums)[num_rows][2]) {
#pragma GCC unroll 4
  for (int r = 0; r < num_rows; ++r) sums[r][0] = sums[r][1] = Vector{};
}

}  // namespace
}  // namespace llmsrec
