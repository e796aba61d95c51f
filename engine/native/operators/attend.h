// Causal attention of a head, in fp32.
#pragma once

#include "engine/native/operators/vectors.h"

namespace llmsrec {
namespace {

constexpr float kLowest = -3e38f;  // a score without weight

template <typename T>
struct Matrix {
  T* data;
  int64_t stride;
};

// product [num_rows, kTile] = left [num_rows, depth] x right [depth, kTile]
template <int num_rows>
inline void MultiplyFloats(Matrix<const float> left, Matrix<const float> right,
                           Matrix<float> product, int64_t depth) {
  Floats sums[num_rows][2];
  Clear(sums);
  for (int64_t k = 0; k < depth; ++k) {
    const Floats low = Load<Floats>(right.data + k * right.stride);
    const Floats high = Load<Floats>(right.data + k * right.stride + kWidth);
#pragma GCC unroll 4
    for (int r = 0; r < num_rows; ++r) {
      sums[r][0] += left.data[r * left.stride + k] * low;
      sums[r][1] += left.data[r * left.stride + k] * high;
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < num_rows; ++r) {
    Store(product.data + r * product.stride, sums[r][0]);
    Store(product.data + r * product.stride + kWidth, sums[r][1]);
  }
}

// Replaces scores by exp(scale x (score - largest)) and gives their sum.
inline float Exponentiate(float* scores, int64_t count, float scale) {
  for (int64_t i = count; i % kWidth != 0; ++i) scores[i] = kLowest;
  Floats maxima = Load<Floats>(scores);
  for (int64_t i = kWidth; i < count; i += kWidth) {
    const Floats next = Load<Floats>(scores + i);
    maxima = next > maxima ? next : maxima;
  }
  float lanes[kWidth];
  Store(lanes, maxima);
  float largest = lanes[0];
  for (const float lane : lanes) largest = lane > largest ? lane : largest;
  Floats sums = {};
  for (int64_t i = 0; i < count; i += kWidth) {
    const Floats powers = Exp((Load<Floats>(scores + i) - largest) * scale);
    Store(scores + i, powers);
    sums += powers;
  }
  return Sum(sums);
}

// One piece of code, of whose rounding every row has the same.
[[gnu::noinline]] float WeightedSum(const float* weights, Matrix<const float> column,
                                    int64_t num_keys) {
  float sum = 0;
  for (int64_t key = 0; key < num_keys; ++key)
    sum += weights[key] * column.data[key * column.stride];
  return sum;
}

template <int num_rows>
inline void AttendRows(const AttendTask& task, int64_t row) {
  const int64_t num_keys = task.first_row + row + num_rows;  // that any of the rows sees
  const int64_t width = task.num_panels * kPanel;
  const float* queries = task.queries + row * task.query_stride;
  for (int64_t key = 0; key < num_keys; key += kTile) {
    const float* keys = task.keys + key / kPanel * kPanel * task.dim + key % kPanel;
    MultiplyFloats<num_rows>({queries, task.query_stride}, {keys, kPanel},
                             {task.weights + key, width}, task.dim);
  }
  float sums[num_rows];
  for (int r = 0; r < num_rows; ++r) {
    float* weights = task.weights + r * width;
    const int64_t num_seen = num_keys - num_rows + r + 1;
    sums[r] = Exponentiate(weights, num_seen, task.scale);
    for (int64_t key = num_seen; key < num_keys; ++key) weights[key] = 0;
  }
  float* attended = task.attended + row * task.query_stride;
  int64_t column = 0;
  for (; column + kTile <= task.dim; column += kTile) {
    MultiplyFloats<num_rows>({task.weights, width}, {task.values + column, task.value_stride},
                             {attended + column, task.query_stride}, num_keys);
  }
  for (; column < task.dim; ++column) {
    for (int r = 0; r < num_rows; ++r) {
      attended[r * task.query_stride + column] =
          WeightedSum(task.weights + r * width, {task.values + column, task.value_stride},
                      num_keys - num_rows + r + 1);
    }
  }
  for (int r = 0; r < num_rows; ++r) {
    const float inverse = 1 / sums[r];
    for (int64_t i = 0; i < task.dim; ++i) attended[r * task.query_stride + i] *= inverse;
  }
}

inline void Attend(const AttendTask& task) {
  int64_t row = 0;
  for (; row + kRows <= task.num_rows; row += kRows) AttendRows<kRows>(task, row);
  for (; row < task.num_rows; ++row) AttendRows<1>(task, row);
}

}  // namespace
}  // namespace llmsrec
