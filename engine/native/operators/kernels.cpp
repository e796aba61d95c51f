#include "engine/native/operators/kernels.h"

namespace llmsrec {

const Kernels& BestKernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512vnni")) {
    return kAvx512Kernels;
  }
  if (__builtin_cpu_supports("x86-64-v3")) return kAvx2Kernels;
#endif
  return kPortableKernels;
}

}  // namespace llmsrec
