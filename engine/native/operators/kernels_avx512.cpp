#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>

namespace llmsrec {
namespace {

struct Isa {
  static constexpr int kWidth = 16;
  typedef int32_t Ints __attribute__((vector_size(kWidth * sizeof(int32_t))));

  static Ints DotPairs(Ints sums, Ints left, Ints right) {
    return Ints(_mm512_dpwssd_epi32(__m512i(sums), __m512i(left), __m512i(right)));
  }
};

}  // namespace
}  // namespace llmsrec

#include "engine/native/operators/attend.h"
#include "engine/native/operators/multiply.h"
#include "engine/native/operators/quantize.h"

namespace llmsrec {

const Kernels kAvx512Kernels = {"AVX-512 VNNI", Quantize, Normalize, Gate, Multiply, Attend};

}  // namespace llmsrec
#endif
