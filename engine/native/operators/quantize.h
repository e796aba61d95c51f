// Activations to integers with a scale for each block, after the operation before them.
#pragma once

#include "engine/native/operators/vectors.h"

namespace llmsrec {
namespace {

constexpr float kNegligible = 1e-30f;  // whose inverse might overflow

// Compares bits, so that a NaN is larger than any number.
inline float LargestMagnitude(const float* block) {
  Ints largest = {};
  for (int64_t i = 0; i < kBlock; i += kWidth) {
    const Ints bits = Load<Ints>(block + i) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  int32_t lanes[kWidth];
  Store(lanes, largest);
  int32_t bits = 0;
  for (const int32_t lane : lanes) bits = lane > bits ? lane : bits;
  return Load<float>(&bits);
}

inline void QuantizeBlock(const float* source, const QuantizeTask& task, int64_t block) {
  const float largest = LargestMagnitude(source);
  task.scales[block] = largest / kMaxValue;
  const float inverse = largest < kNegligible ? 0 : kMaxValue / largest;
  for (int64_t i = 0; i < kBlock; i += kWidth) {
    const Floats rounded = Load<Floats>(source + i) * inverse + kRounder;
    Store(task.values + block * kBlock + i, __builtin_convertvector(Ints(rounded), Shorts));
  }
}

inline void Quantize(const QuantizeTask& task) {
  for (int64_t block = 0; block < task.num_rows * task.num_blocks; ++block) {
    QuantizeBlock(task.source + block * kBlock, task, block);
  }
}

inline void Normalize(const QuantizeTask& task) {
  const int64_t width = task.num_blocks * kBlock;
  for (int64_t row = 0; row < task.num_rows; ++row) {
    const float* source = task.source + row * width;
    Floats squares = {};
    for (int64_t i = 0; i < width; i += kWidth) {
      const Floats x = Load<Floats>(source + i);
      squares += x * x;
    }
    const float mean = Sum(squares) / static_cast<float>(width);
    const float scale = 1 / __builtin_sqrtf(mean + task.epsilon);
    for (int64_t block = 0; block < task.num_blocks; ++block) {
      float normed[kBlock];
      for (int64_t i = 0; i < kBlock; i += kWidth) {
        const int64_t column = block * kBlock + i;
        const Floats x = Load<Floats>(source + column) * scale;
        Store(normed + i, x * Load<Floats>(task.operand + column));
      }
      QuantizeBlock(normed, task, row * task.num_blocks + block);
    }
  }
}

inline void Gate(const QuantizeTask& task) {
  for (int64_t block = 0; block < task.num_rows * task.num_blocks; ++block) {
    float gated[kBlock];
    for (int64_t i = 0; i < kBlock; i += kWidth) {
      const Floats x = Load<Floats>(task.source + block * kBlock + i);
      const Floats silu = x / (1 + Exp(-x));
      Store(gated + i, silu * Load<Floats>(task.operand + block * kBlock + i));
    }
    QuantizeBlock(gated, task, block);
  }
}

}  // namespace
}  // namespace llmsrec
