// The running top-k of one query.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace llmsrec {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Candidate {
  float score;
  int32_t row;
};

inline bool IsBetter(const Candidate& a, const Candidate& b) {
  return a.score > b.score || (a.score == b.score && a.row < b.row);
}

// The best k rows of one query among those offered so far, which come in ascending order.
class Selection {
 public:
  Selection(int64_t k, std::span<const int32_t> excluded) : k_(k), excluded_(excluded) {
    heap_.reserve(k);
  }

  // What a score must exceed to be kept: an equal score at a higher row loses.
  float threshold() const {
    if (k_ == 0) return kInfinity;
    return std::ssize(heap_) < k_ ? -kInfinity : heap_.front().score;
  }

  void Offer(const Candidate& candidate) {
    if (IsExcluded(candidate.row)) return;
    if (std::ssize(heap_) == k_) {
      std::pop_heap(heap_.begin(), heap_.end(), IsBetter);
      heap_.back() = candidate;
    } else {
      heap_.push_back(candidate);
    }
    std::push_heap(heap_.begin(), heap_.end(), IsBetter);
  }

  const std::vector<Candidate>& candidates() const { return heap_; }

 private:
  bool IsExcluded(int32_t row) {
    while (!excluded_.empty() && excluded_.front() < row) excluded_ = excluded_.subspan(1);
    return !excluded_.empty() && excluded_.front() == row;
  }

  int64_t k_;
  std::span<const int32_t> excluded_;
  std::vector<Candidate> heap_;  // the worst one in front
};

}  // namespace llmsrec
