// Lists the kernels of ONNX Runtime's operators that this processor can run.
#include <cstddef>
#include <vector>

#include "engine/native/operators/kernels.h"

namespace llmsrec {
namespace {

std::vector<const Kernels*> Supported() {
  std::vector<const Kernels*> supported = {&kPortableKernels};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v3")) supported.push_back(&kAvx2Kernels);
  if (__builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512vnni")) {
    supported.push_back(&kAvx512Kernels);
  }
#endif
  return supported;
}

}  // namespace
}  // namespace llmsrec

extern "C" {

// From the narrowest vectors to the widest; null beyond the last.
const llmsrec::Kernels* supported_kernels(size_t index) {
  const auto supported = llmsrec::Supported();
  return index < supported.size() ? supported[index] : nullptr;
}

const llmsrec::Kernels* best_kernels() { return &llmsrec::BestKernels(); }
}
