// Products of quantized activations and packed weights.
#pragma once

#include "engine/native/operators/vectors.h"

namespace llmsrec {
namespace {

constexpr int64_t kPartBlocks = 4;  // of weights, 16 KiB
constexpr int64_t kPartSize = kPartBlocks * kBlock * kPanel;

struct Blocks {
  int64_t begin;
  int64_t end;
};

template <int num_rows>
inline void MultiplyTile(const MultiplyTask& task, int64_t row, int64_t column, Blocks part) {
  const int64_t depth = task.num_blocks * kBlock;
  const int16_t* values = task.values + row * depth;
  const float* scales = task.scales + row * task.num_blocks;
  float* product = task.product + row * task.stride + column;
  const float* before = part.begin == 0 ? task.addend : task.product;
  Floats totals[num_rows][2];
  Clear(totals);
  if (before != nullptr) {
    before += row * task.stride + column;
#pragma GCC unroll 4
    for (int r = 0; r < num_rows; ++r) {
      totals[r][0] = Load<Floats>(before + r * task.stride);
      totals[r][1] = Load<Floats>(before + r * task.stride + kWidth);
    }
  }
  for (int64_t block = part.begin; block < part.end; ++block) {
    Ints sums[num_rows][2];
    Clear(sums);
    for (int64_t k = block * kBlock; k < (block + 1) * kBlock; k += 2) {
      const int16_t* weight = task.weight + k * kPanel + column * 2;
      const Ints left = Load<Ints>(weight), right = Load<Ints>(weight + kTile);
#pragma GCC unroll 4
      for (int r = 0; r < num_rows; ++r) {
        const Ints pair = Load<int32_t>(values + r * depth + k) - Ints{};
        sums[r][0] = Isa::DotPairs(sums[r][0], pair, left);
        sums[r][1] = Isa::DotPairs(sums[r][1], pair, right);
      }
    }
    const float* weight_scales = task.weight_scales + block * kPanel + column;
    const Floats left_scales = Load<Floats>(weight_scales);
    const Floats right_scales = Load<Floats>(weight_scales + kWidth);
#pragma GCC unroll 4
    for (int r = 0; r < num_rows; ++r) {
      const float scale = scales[r * task.num_blocks + block];
      totals[r][0] += __builtin_convertvector(sums[r][0], Floats) * (left_scales * scale);
      totals[r][1] += __builtin_convertvector(sums[r][1], Floats) * (right_scales * scale);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < num_rows; ++r) {
    Store(product + r * task.stride, totals[r][0]);
    Store(product + r * task.stride + kWidth, totals[r][1]);
  }
}

// Weights are passed over in parts that stay in the first-level cache for all rows, while those
// that follow in memory are on their way to the second.
inline void Multiply(const MultiplyTask& task) {
  for (int64_t first = 0; first < task.num_blocks; first += kPartBlocks) {
    const int64_t next = first + kPartBlocks;
    const Blocks part{first, next < task.num_blocks ? next : task.num_blocks};
    const int16_t* following = task.weight + part.end * kBlock * kPanel;
    for (int64_t row = 0; row < task.num_rows;) {
      const int64_t num_rows = row + kRows <= task.num_rows ? kRows : 1;
      const int64_t at = row * kPartSize / task.num_rows;
      const int64_t end = (row + num_rows) * kPartSize / task.num_rows;
      for (int64_t i = at; i < end; i += 32) __builtin_prefetch(following + i, 0, 2);
      for (int64_t column = 0; column < kPanel; column += kTile) {
        if (num_rows == kRows) {
          MultiplyTile<kRows>(task, row, column, part);
        } else {
          MultiplyTile<1>(task, row, column, part);
        }
      }
      row += num_rows;
    }
  }
}

}  // namespace
}  // namespace llmsrec
