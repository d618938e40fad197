// The GliDe draft of one layer: a forward over any trees, and whole chains in one call.
//
//   embed -> self-attention (layers.h) -> hint -> glimpse -> MLP (layers.h) -> norm -> head -> top
//
// The glimpse is attention over the target's cache: norm -> query -> rotary -> one attention per
// target layer that is read -> output + residual.
#include "glide.h"

#include "candidates.h"
#include "draw.h"
#include "guard.h"
#include "layers.h"
#include "paged_attention.h"

namespace glidecape {
namespace {

using Floats = std::vector<float>;

// Where a forward's results go.
struct Wanted {
  float* logits;  // [rows][num_tokens + most own tokens of a sequence]
  int num_candidates = 0;
  int64_t* candidates = nullptr;  // [rows][num_candidates]
  float* confidences = nullptr;
};

class Glide {
 public:
  virtual ~Glide() = default;
  virtual void logits(const GlidecapeGlideStep& step, const GlidecapeGlideCaches& caches, float* to) = 0;
  virtual void fill(const GlidecapeGlideStep& step, const GlidecapeGlideCaches& caches) = 0;
  virtual void draft(const GlidecapeRound& round, const GlidecapeGlideCaches& caches) = 0;
};

template <class Format>
class GlideOf : public Glide {
 public:
  GlideOf(const GlidecapeGlideShape& shape, const GlidecapeGlideWeights& from, int threads)
      : shape_(shape), threads_(std::max(1, threads)), embedding_(from.embedding),
        layer_(pack_layer<Format>(arena_, shape.self, from.layer)),
        windows_(from.windows, from.windows + shape.num_glimpsed),
        token_ids_(from.token_ids, from.token_ids + shape.num_tokens),
        nothing_(shape.self.hidden), runner_(shape.self, shape.rotary, threads_),
        cross_rotary_(shape.cross_rotary, shape.cross_head_dim) {
    const auto as_is = [](int i) { return i; };
    const int hidden = shape.self.hidden, width = cross_width();
    query_ = Format::pack(arena_, from.cross_query, from.cross_query_bias, width, hidden, as_is);
    output_ = Format::pack(arena_, from.cross_output, nullptr, hidden, width, as_is);
    head_ = Format::pack(arena_, from.head, nullptr, shape.num_tokens, hidden, as_is);
    if (from.cross_norm) cross_norm_.assign(from.cross_norm, from.cross_norm + hidden);
    if (from.final_norm) final_norm_.assign(from.final_norm, from.final_norm + hidden);
    if (!hint_width()) return;
    hint_proj_ = Format::pack(arena_, from.hint_proj, nullptr, hidden, hint_width(), as_is);
    delays_.assign(from.delays, from.delays + static_cast<int64_t>(shape.max_delay) * hidden);
    matches_.assign(from.matches, from.matches + static_cast<int64_t>(shape.max_match + 1) * hidden);
  }

  void logits(const GlidecapeGlideStep& step, const GlidecapeGlideCaches& caches, float* to) override {
    SharedTeam::with(threads_, [&](Team& team) { forward(team, step, caches, {to}); });
  }

  void fill(const GlidecapeGlideStep& g, const GlidecapeGlideCaches& caches) override {
    // Few rows are done before another thread is awake.
    if (g.step.num_rows <= kRowsAlone) return fill_with(alone_, g, caches);
    SharedTeam::with(threads_, [&](Team& team) { fill_with(team, g, caches); });
  }

  void draft(const GlidecapeRound& round, const GlidecapeGlideCaches& caches) override {
    SharedTeam::with(threads_, [&](Team& team) {
      if (round.behind) fill_behind(team, round, caches);
      const int count = round.num_sequences, wanted = round.num_candidates;
      logits_.resize(static_cast<int64_t>(count) * (shape_.num_tokens + most_own(round.own)));
      tokens_.assign(round.token_ids, round.token_ids + count);
      std::copy_n(round.depths, count, round.drafted);
      Floats survivals(count, 1.0f);
      int active = count;
      for (int depth = 0; depth < round.depths[0] && active > 0; ++depth) {
        const int64_t at = static_cast<int64_t>(depth) * count;
        int64_t* found = round.candidates + at * wanted;
        float* confidences = round.confidences + at * wanted;
        draft_one(team, round, caches, depth, active, {logits_.data(), wanted, found, confidences});
        for (int i = 0; i < active; ++i) {
          tokens_[i] = found[static_cast<int64_t>(i) * wanted];
          survivals[i] *= chance(round, confidences[static_cast<int64_t>(i) * wanted]);
          if (survivals[i] < round.least[i]) round.drafted[i] = std::min<int64_t>(round.drafted[i], depth + 1);
        }
        // A chain that has ended goes on for nothing while one behind it has not.
        while (active > 0 && round.drafted[active - 1] <= depth + 1) --active;
      }
    });
  }

 private:
  void fill_with(Team& team, const GlidecapeGlideStep& g, const GlidecapeGlideCaches& caches) {
    prepare(g);
    team.run([&](Team::Worker& worker) {
      worker.for_each(0, g.step.num_rows, [&](int row) { embed(row, g); });
      runner_.write_kv(worker, 1, layer_, kNothing, g.step, view(caches.self));
    }, 3);
  }

  void fill_behind(Team& team, const GlidecapeRound& round, const GlidecapeGlideCaches& caches) {
    positions_.clear(), slots_.clear();
    for (int i = 0; i < round.num_sequences; ++i)
      for (int64_t position = round.starts[i] - round.behind_counts[i]; position < round.starts[i]; ++position)
        place(round, i, position);
    GlidecapeGlideStep step{};  // without sequences, since its rows attend to nothing
    step.step.num_rows = static_cast<int32_t>(positions_.size());
    step.step.positions = positions_.data(), step.step.slots = slots_.data();
    step.token_ids = round.behind;
    fill_with(team, step, caches);
  }

  // Adds a row at a position of a sequence.
  void place(const GlidecapeRound& round, int sequence, int64_t position) {
    const int64_t* table = round.block_tables + static_cast<int64_t>(sequence) * round.max_blocks;
    positions_.push_back(position);
    slots_.push_back(table[position / round.block_size] * round.block_size + position % round.block_size);
  }

  // The tokens at a depth of the first `active` chains.
  void draft_one(Team& team, const GlidecapeRound& round, const GlidecapeGlideCaches& caches, int depth,
                 int active, const Wanted& wanted) {
    positions_.clear(), slots_.clear();
    for (int i = 0; i < active; ++i) place(round, i, round.starts[i] + depth);
    const int64_t at = static_cast<int64_t>(depth) * round.num_sequences;
    const std::vector<int64_t> ones(active, 1);
    GlidecapeGlideStep step{};
    step.step = {active, active, round.max_blocks, round.block_size, 0, positions_.data(),
                 slots_.data(), round.block_tables, positions_.data(), ones.data(), nullptr};
    step.token_ids = tokens_.data();
    step.visible_lens = round.starts;
    step.hidden = round.hidden;
    step.delay = depth + 1;
    step.own = round.own;
    if (round.copied) step.copied = round.copied + at, step.num_equal = round.num_equal + at;
    forward(team, step, caches, wanted);
  }

  // Of acceptance.
  static float chance(const GlidecapeRound& round, float confidence) {
    if (!(confidence > 0.0f)) return std::min(round.offsets[0], 1.0f);  // NaN, from broken weights, too
    const int line = std::min(static_cast<int>(confidence * round.num_lines), round.num_lines - 1);
    return std::min(round.offsets[line] + round.slopes[line] * confidence, 1.0f);
  }

  // Of all glimpsed layers' queries together.
  int cross_width() const {
    return shape_.num_glimpsed * shape_.cross_heads * shape_.cross_head_dim;
  }

  int hint_width() const { return shape_.target_hidden + (shape_.copy_hint ? shape_.self.hidden : 0); }

  static int most_own(const GlidecapeOwnTokens* own) { return own ? own->most : 0; }

  static CacheView<bf16> view(const GlidecapeCache& cache) { return {cache.keys, cache.values}; }

  void prepare(const GlidecapeGlideStep& g) {
    const int64_t rows = g.step.num_rows;
    x_.resize(rows * shape_.self.hidden);
    runner_.prepare(g.step, x_.data());
    runner_.fit_scratch({shape_.cross_heads, shape_.cross_kv_heads, shape_.cross_head_dim}, g.step);
    queries_.resize(rows * cross_width());
    attended_.resize(rows, cross_width());
    hints_.resize(rows, hint_width());
  }

  // The row's token, ready for the self-attention.
  void embed(int row, const GlidecapeGlideStep& g) {
    const int hidden = shape_.self.hidden;
    widen(embedding_ + g.token_ids[row] * hidden, hidden, runner_.x(row));
    runner_.norm(layer_.attention_norm, row);
  }

  // What the hint's projection takes: the target's hidden state, and the looked up token's embedding.
  void take_hints(int row, const GlidecapeGlideStep& g) {
    const int hidden = shape_.self.hidden, seen = shape_.target_hidden;
    if (seen) put_row(hints_, row, 0, g.hidden + static_cast<int64_t>(row) * seen, seen);
    if (!shape_.copy_hint) return;
    const int64_t copied = g.copied ? g.copied[row] : -1;
    put_row(hints_, row, seen, copied < 0 ? nothing_.data() : embedding_ + copied * hidden, hidden);
  }

  void forward(Team& team, const GlidecapeGlideStep& g, const GlidecapeGlideCaches& caches,
               const Wanted& wanted) {
    prepare(g);
    seen_.find_committed(g.step, g.visible_lens);
    sequences_.clear();
    for (int i = 0; i < g.step.num_sequences; ++i)
      sequences_.insert(sequences_.end(), g.step.node_counts[i], i);
    cross_rotary_.find(g.step.positions, g.step.num_rows);
    glances_.clear();
    for (int64_t i = 0, width = shape_.cross_heads * shape_.cross_head_dim; i < shape_.num_glimpsed; ++i)
      glances_.push_back({view(caches.glimpsed[i]), {windows_[i]}, plain_rules(shape_.cross_head_dim),
                          i * width, i * width});
    const int rows = g.step.num_rows;
    const auto glimpses = [&](int row) { enter(row, cross_norm_, &g); };
    team.run([&](Team::Worker& worker) {
      worker.for_each(0, rows, [&](int row) { embed(row, g), take_hints(row, g); });
      const auto attend_to_self = [&](const typename Format::Matrix* after, const auto& then) {
        runner_.run_self_attention(worker, 1, layer_, after, g.step, view(caches.self), then);
      };
      if (hint_width()) {
        attend_to_self(&hint_proj_, Nothing{});
        runner_.add_product(worker, 6, hint_proj_, &query_, hints_, rows, glimpses);
      } else {
        attend_to_self(&query_, glimpses);
      }
      run_glimpse(worker, 8, g);
      runner_.run_mlp(worker, 13, layer_, &head_, rows, [&](int row) { enter(row, final_norm_, nullptr); });
      read_out(worker, 16, g, wanted);
    }, 18);
  }

  // 5 phases; rows come ready for the query.
  void run_glimpse(Team::Worker& worker, int phase, const GlidecapeGlideStep& g) {
    const int rows = g.step.num_rows, dim = shape_.cross_head_dim;
    const int64_t width = cross_width();
    multiply(worker, phase, query_, &output_, runner_.normed(), rows,
             [&](int row, int first, int count, const float* sums) {
               std::copy_n(sums, count, queries_.data() + row * width + first);
             },
             [&](int row) {
               for (int64_t head = 0; head < width; head += dim) {
                 float* query = queries_.data() + row * width + head;
                 rotate_head(query, nullptr, 0, cross_rotary_.cos(row), cross_rotary_.sin(row), dim, query);
               }
             });
    attend_blocks<bf16>(worker, phase + 2, g.step, seen_, {shape_.cross_heads, shape_.cross_kv_heads, dim},
                        glances_.data(), shape_.num_glimpsed, QueryView<float>{queries_.data(), width, dim},
                        attended_, runner_.scratch(worker.thread()));
    runner_.add_product(worker, phase + 3, output_, &layer_.gate_up, attended_, rows,
                        [&](int row) { runner_.norm(layer_.mlp_norm, row); });
  }

  // Head and the best tokens: 2 phases.
  void read_out(Team::Worker& worker, int phase, const GlidecapeGlideStep& g, const Wanted& wanted) {
    const int rows = g.step.num_rows, width = shape_.num_tokens + most_own(g.own);
    multiply(worker, phase, head_, kNothing, runner_.normed(), rows,
             [&](int row, int first, int count, const float* sums) {
               std::copy_n(sums, count, wanted.logits + static_cast<int64_t>(row) * width + first);
             });
    if (!wanted.num_candidates && !g.own) return;
    worker.for_each(phase + 1, rows, [&](int row) {
      float* logits = wanted.logits + static_cast<int64_t>(row) * width;
      if (g.own) score_own(row, g, logits + shape_.num_tokens);
      if (wanted.num_candidates) find_best(row, g, logits, width, wanted);
    });
  }

  // Logits of the sequence's own tokens. to: [own->most]
  void score_own(int row, const GlidecapeGlideStep& g, float* to) {
    const int hidden = shape_.self.hidden, sequence = sequences_[row];
    const float* x = x_.data() + static_cast<int64_t>(row) * hidden;
    Lanes squares = all(0.0f);
    for (int i = 0; i < hidden; i += 16) squares = fma(load(x + i), load(x + i), squares);
    const float scale =
        final_norm_.empty() ? 1.0f : 1.0f / std::sqrt(sum(squares) / hidden + shape_.self.eps);
    const int count = static_cast<int>(g.own->counts[sequence]);
    std::fill(to + count, to + g.own->most, -INFINITY);
    const bf16* from = count ? g.own->rows[sequence] : nullptr;
    for (int token = 0; token < count; ++token, from += hidden) {
      Lanes total = all(0.0f);
      for (int i = 0; i < hidden; i += 16) {
        const Lanes value = final_norm_.empty() ? load(x + i) : load(x + i) * load(final_norm_.data() + i);
        total = fma(value, load(from + i), total);
      }
      to[token] = sum(total) * scale;
    }
  }

  void find_best(int row, const GlidecapeGlideStep& g, const float* logits, int width, const Wanted& wanted) {
    const int64_t at = static_cast<int64_t>(row) * wanted.num_candidates;
    int64_t* found = wanted.candidates + at;
    most_probable(logits, width, wanted.num_candidates, found, wanted.confidences + at);
    for (int i = 0; i < wanted.num_candidates; ++i) {
      const int64_t own = found[i] - shape_.num_tokens;
      found[i] = own < 0 ? token_ids_[found[i]] : g.own->ids[sequences_[row]][own];
    }
  }

  // The residual row -> what the next product reads: normed if there is a weight. The vectors of the
  // hints' delay and match are added to the residual first, if a step is given.
  void enter(int row, const Floats& norm, const GlidecapeGlideStep* hinted) {
    const int hidden = shape_.self.hidden;
    float* x = runner_.x(row);
    const auto add = [&](const Floats& vectors, int64_t index) {
      const float* from = vectors.data() + index * hidden;
      for (int i = 0; i < hidden; ++i) x[i] += from[i];
    };
    if (hinted && shape_.target_hidden) add(delays_, std::min(hinted->delay, shape_.max_delay) - 1);
    if (hinted && shape_.copy_hint)
      add(matches_, hinted->copied ? std::min<int64_t>(hinted->num_equal[row], shape_.max_match) : 0);
    if (!norm.empty())
      return rms_norm_row(x, norm.data(), hidden, shape_.self.eps, runner_.normed(), row);
    for (int i = 0; i < hidden; i += kGroup)
      runner_.normed().put(row, i, load(x + i), i + 16 < hidden ? load(x + i + 16) : all(0.0f));
  }

  static constexpr const typename Format::Matrix* kNothing = nullptr;
  static constexpr int kRowsAlone = 64;

  const GlidecapeGlideShape shape_;
  const int threads_;
  Team alone_{1};
  Arena arena_;
  const bf16* embedding_;
  const Layer<Format> layer_;
  const std::vector<int> windows_;
  const std::vector<int64_t> token_ids_;
  typename Format::Matrix query_, output_, head_, hint_proj_;
  Floats cross_norm_, final_norm_, delays_, matches_;
  const std::vector<bf16> nothing_;  // the embedding of no token

  LayerRunner<Format> runner_;
  Rotary cross_rotary_;
  std::vector<Glance<bf16>> glances_;
  Floats x_, queries_, logits_;
  typename Format::Rows attended_, hints_;
  std::vector<int64_t> tokens_, positions_, slots_;
  std::vector<int> sequences_;  // of the rows
  VisibleSlots seen_;
};

}  // namespace
}  // namespace glidecape

using namespace glidecape;

void* glidecape_glide_create(const GlidecapeGlideShape* shape, const GlidecapeGlideWeights* weights,
                             int32_t threads) {
  const bool quantized = weights->head.parts[0].type != GLIDECAPE_BF16;
  return created([&] { return make_for<Glide, GlideOf>(quantized, *shape, *weights, threads); });
}

bool glidecape_glide_logits(void* glide, const GlidecapeGlideStep* step,
                            const GlidecapeGlideCaches* caches, float* logits) {
  return succeeds([&] { static_cast<Glide*>(glide)->logits(*step, *caches, logits); });
}

bool glidecape_glide_fill(void* glide, const GlidecapeGlideStep* step,
                          const GlidecapeGlideCaches* caches) {
  return succeeds([&] { static_cast<Glide*>(glide)->fill(*step, *caches); });
}

bool glidecape_glide_draft(void* glide, const GlidecapeRound* round,
                           const GlidecapeGlideCaches* caches) {
  return succeeds([&] { static_cast<Glide*>(glide)->draft(*round, *caches); });
}

void glidecape_glide_destroy(void* glide) { delete static_cast<Glide*>(glide); }

const int32_t* glidecape_structure_sizes() {
  static const int32_t sizes[] = {
      sizeof(GlidecapeShape),      sizeof(GlidecapeRows),       sizeof(GlidecapeMatrix),
      sizeof(GlidecapeRotary),     sizeof(GlidecapeEnds),       sizeof(GlidecapeLayer),
      sizeof(GlidecapeStep),       sizeof(GlidecapeCache),      sizeof(GlidecapeGlideShape),
      sizeof(GlidecapeGlideWeights), sizeof(GlidecapeGlideCaches), sizeof(GlidecapeOwnTokens),
      sizeof(GlidecapeGlideStep),  sizeof(GlidecapeRound),      sizeof(GlidecapeHeads),
      sizeof(GlidecapeAttention),  sizeof(GlidecapeAttentionCall), sizeof(GlidecapeDraw), 0};
  return sizes;
}
