// For processors without wide vectors: correct, and slower than ONNX Runtime's fp32.
#include <cstdint>

namespace llmsrec {
namespace {

struct Isa {
  static constexpr int kWidth = 4;
  typedef int32_t Ints __attribute__((vector_size(kWidth * sizeof(int32_t))));
  typedef uint32_t Words __attribute__((vector_size(kWidth * sizeof(uint32_t))));

  // Adds the products of two pairs of int16 to each sum.
  static Ints DotPairs(Ints sums, Ints left, Ints right) {
    const Ints low_left = Ints(Words(left) << 16) >> 16;
    const Ints low_right = Ints(Words(right) << 16) >> 16;
    return sums + low_left * low_right + (left >> 16) * (right >> 16);
  }
};

}  // namespace
}  // namespace llmsrec

#include "engine/native/operators/attend.h"
#include "engine/native/operators/multiply.h"
#include "engine/native/operators/quantize.h"

namespace llmsrec {

const Kernels kPortableKernels = {"portable", Quantize, Normalize, Gate, Multiply, Attend};

}  // namespace llmsrec
