#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>

namespace llmsrec {
namespace {

struct Isa {
  static constexpr int kWidth = 8;
  typedef int32_t Ints __attribute__((vector_size(kWidth * sizeof(int32_t))));

  static Ints DotPairs(Ints sums, Ints left, Ints right) {
    return sums + Ints(_mm256_madd_epi16(__m256i(left), __m256i(right)));
  }
};

}  // namespace
}  // namespace llmsrec

#include "engine/native/operators/attend.h"
#include "engine/native/operators/multiply.h"
#include "engine/native/operators/quantize.h"

namespace llmsrec {

const Kernels kAvx2Kernels = {"AVX2", Quantize, Normalize, Gate, Multiply, Attend};

}  // namespace llmsrec
#endif
