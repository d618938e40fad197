// Tokens drawn from logits, a row by a thread.
//
// A row is weighed first, e^((logit - largest) / temperature), so that the likeliest token weighs 1. What
// is cut off weighs 0. The sums that a uniform number is looked up in are in double precision: those of
// blocks of 64 tokens, then those inside the block that it falls into.
#include "draw.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "guard.h"
#include "team.h"
#include "vector_math.h"

namespace glidecape {
namespace {

class RowDraw {
 public:
  // Gets all memory that rows of this width need.
  void fit(int64_t width) {
    const int64_t blocks = (width + kBlock - 1) / kBlock;
    weights_.resize(blocks * kBlock);
    best_.reserve(weights_.size());
    sums_.reserve(blocks);
  }

  int64_t operator()(const float* logits, int64_t width, const GlidecapeDraw& how) {
    if (!weigh(logits, width, how.temperature)) return width;
    if (const float cutoff = find_cutoff(width, how); cutoff > 0.0f)
      for (float& weight : weights_) weight = weight >= cutoff ? weight : 0.0f;
    return look_up(how.uniform);
  }

 private:
  static constexpr int64_t kBlock = 64;

  // False where there is no distribution.
  bool weigh(const float* logits, int64_t width, float temperature) {
    std::fill(weights_.begin() + width / 16 * 16, weights_.end(), 0.0f);
    const auto at = [&](int64_t i) {
      return load_first(logits + i, static_cast<int>(std::min<int64_t>(width - i, 16)), -INFINITY);
    };
    Lanes most = all(-INFINITY);
    bool is_broken = false;
    for (int64_t i = 0; i < width; i += 16) {
      const Lanes some = at(i);
      is_broken |= unordered(some, some);
      most = max(most, some);
    }
    const float best = largest(most);
    if (is_broken || !std::isfinite(best)) return false;
    for (int64_t i = 0; i < width; i += 16)
      store(weights_.data() + i, exp((at(i) - all(best)) / all(temperature)));
    return true;
  }

  // The least weight that is kept: that of the last token that top_k and top_p leave, or min_p.
  float find_cutoff(int64_t width, const GlidecapeDraw& how) {
    const bool is_limited = how.top_k > 0 && how.top_k < width;
    if (!is_limited && how.top_p >= 1.0f) return how.min_p;
    double wanted = is_limited ? 0.0 : how.top_p * sum_blocks();
    // Of few tokens first: most distributions are steep, and sorting is what takes time.
    for (const float least : {0x1p-6f, 0x1p-12f, 0x1p-24f, -1.0f}) {
      collect(least);
      if (is_limited ? static_cast<int64_t>(best_.size()) >= how.top_k : sum_of(best_) >= wanted) break;
    }
    std::sort(best_.begin(), best_.end(), std::greater<float>());
    if (is_limited) {
      best_.resize(how.top_k);
      if (how.top_p >= 1.0f) return std::max(best_.back(), how.min_p);
      wanted = how.top_p * sum_of(best_);
    }
    double before = 0.0;
    size_t last = 0;
    for (size_t i = 0; i < best_.size() && before < wanted; ++i) {
      last = i;
      before += best_[i];
    }
    return std::max(best_[last], how.min_p);
  }

  // The weights above `least`.
  void collect(float least) {
    best_.clear();
    for (size_t i = 0; i < weights_.size(); i += 16)
      for (unsigned above = greater(load(weights_.data() + i), all(least)); above; above &= above - 1)
        best_.push_back(weights_[i + __builtin_ctz(above)]);
  }

  static double sum_of(const std::vector<float>& weights) {
    double sum = 0.0;
    for (const float weight : weights) sum += weight;
    return sum;
  }

  // The sum of all weights; those of blocks are in sums_.
  double sum_blocks() {
    sums_.clear();
    double total = 0.0;
    for (size_t first = 0; first < weights_.size(); first += kBlock) {
      double sums[8] = {};  // side by side
      for (int64_t i = 0; i < kBlock; i += 8)
        for (int j = 0; j < 8; ++j) sums[j] += weights_[first + i + j];
      double sum = 0.0;
      for (const double part : sums) sum += part;
      sums_.push_back(sum);
      total += sum;
    }
    return total;
  }

  // The first token at which the sum of the weights exceeds the uniform's share of it.
  int64_t look_up(double uniform) {
    const double total = sum_blocks();
    const double target = std::min(uniform * total, std::nextafter(total, 0.0));
    double before = 0.0;
    size_t block = 0;
    while (block + 1 < sums_.size() && before + sums_[block] <= target) before += sums_[block++];
    // Sums in another order may end a rounding below the target: then it is the last token.
    int64_t last = 0;
    for (int64_t i = block * kBlock; i < static_cast<int64_t>((block + 1) * kBlock); ++i) {
      if (weights_[i] <= 0.0f) continue;
      last = i;
      before += weights_[i];
      if (before > target) break;
    }
    return last;
  }

  std::vector<float> weights_, best_;
  std::vector<double> sums_;
};

}  // namespace
}  // namespace glidecape

using namespace glidecape;

bool glidecape_draw(const float* logits, int64_t rows, int64_t width, const GlidecapeDraw* how,
                    int64_t* drawn) {
  return succeeds([&] {
    SharedTeam::with(0, [&](Team& team) {
      // Who has the team has them; never destroyed, as the team.
      static auto& draws = *new std::vector<RowDraw>;
      if (draws.size() < static_cast<size_t>(team.size())) draws.resize(team.size());
      for (RowDraw& draw : draws) draw.fit(width);
      const auto draw = [&](RowDraw& by, int64_t row) {
        drawn[row] = by(logits + row * width, width, how[row]);
      };
      if (rows == 1) return draw(draws[0], 0);  // sooner than another thread is awake
      team.run([&](Team::Worker& worker) {
        worker.for_each(0, static_cast<int>(rows), [&](int row) { draw(draws[worker.thread()], row); });
      }, 1);
    });
  });
}
