// A Llama-family model from tokens to final hidden states, or one matrix product, in one call.
#include "decoder.h"

#include "candidates.h"
#include "guard.h"
#include "layers.h"

namespace glidecape {
namespace {

class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual void set_layer(int index, const GlidecapeLayer& from) = 0;
  virtual void run(const GlidecapeStep& step, const GlidecapeCache* caches,
                   const int64_t* token_ids, bf16* hidden) = 0;
};

template <class Format>
class DecoderOf : public Decoder {
 public:
  DecoderOf(const GlidecapeShape& shape, const GlidecapeEnds& ends, int threads)
      : shape_(shape), threads_(std::max(1, threads)), embedding_(ends.embedding),
        final_norm_(ends.final_norm, ends.final_norm + shape.hidden), layers_(shape.num_layers),
        runner_(shape, ends.rotary, threads_) {}

  void set_layer(int index, const GlidecapeLayer& from) override {
    layers_[index] = pack_layer<Format>(arena_, shape_, from);
  }

  void run(const GlidecapeStep& step, const GlidecapeCache* caches, const int64_t* token_ids,
           bf16* hidden) override {
    constexpr int kPhases = LayerRunner<Format>::kPhases;
    const int count = shape_.num_layers;
    SharedTeam::with(threads_, [&](Team& team) {
      x_.resize(static_cast<int64_t>(step.num_rows) * shape_.hidden);
      runner_.prepare(step, x_.data());
      team.run([&](Team::Worker& worker) {
        worker.for_each(0, step.num_rows, [&](int row) {
          widen(embedding_ + token_ids[row] * shape_.hidden, shape_.hidden, runner_.x(row));
          runner_.norm(layers_[0].attention_norm, row);
        });
        for (int i = 0; i < count; ++i) {
          const Layer<Format>* next = i + 1 < count ? &layers_[i + 1] : nullptr;
          runner_.run_layer(worker, 1 + kPhases * i, layers_[i], next ? &next->qkv : nullptr, step,
                            {caches[i].keys, caches[i].values}, [&](int row) {
                              if (next) runner_.norm(next->attention_norm, row);
                              else read_out(row, hidden);
                            });
        }
      }, 1 + kPhases * count);
    });
  }

 private:
  void read_out(int row, bf16* hidden) {
    bf16* to = hidden + static_cast<int64_t>(row) * shape_.hidden;
    rms_norm(runner_.x(row), final_norm_.data(), shape_.hidden, shape_.eps,
             [&](int i, Lanes a, Lanes b) {
               store(to + i, a);
               if (i + 16 < shape_.hidden) store(to + i + 16, b);
             });
  }

  const GlidecapeShape shape_;
  const int threads_;
  const bf16* embedding_;
  const std::vector<float> final_norm_;
  Arena arena_;
  std::vector<Layer<Format>> layers_;
  LayerRunner<Format> runner_;
  std::vector<float> x_;
};

// A matrix product of its own.
class Linear {
 public:
  virtual ~Linear() = default;
  // Products of the same rows with the weights of `all`, which are of this one's class.
  virtual void run(Linear* const* all, int count, const void* x, int rows, bool rounded, void* const* y) = 0;
};

// Number: what rows come in.
template <class Format, class Number>
class LinearOf : public Linear {
 public:
  LinearOf(const GlidecapeMatrix& weight, int outputs, int inputs, int threads)
      : matrix_(Format::pack(arena_, weight, nullptr, outputs, inputs, [](int i) { return i; })),
        threads_(std::max(1, threads)) {}

  void run(Linear* const* all, int count, const void* x, int rows, bool rounded, void* const* y) override {
    const auto matrix = [&](int i) { return &static_cast<LinearOf*>(all[i])->matrix_; };
    SharedTeam::with(threads_, [&](Team& team) {
      // Of all products of this kind: a large step's rows would else be kept as often as there are weights.
      // Who has the team has them; never destroyed, as the team.
      static auto& buffer = *new typename Format::Rows;
      const auto* from = static_cast<const Number*>(x);
      const int inputs = matrix_.inputs;
      buffer.resize(rows, inputs);
      for (int64_t row = 0; row < rows; ++row) put_row(buffer, row, 0, from + row * inputs, inputs);
      team.run([&](Team::Worker& worker) {
        for (int i = 0; i < count; ++i) {
          const auto* after = i + 1 < count ? matrix(i + 1) : nullptr;
          const int64_t width = matrix(i)->outputs;
          multiply(worker, i, *matrix(i), after, buffer, rows, [&](int row, int first, int outputs, const float* sums) {
            const int64_t at = row * width + first;
            if (rounded) put_rounded(sums, outputs, static_cast<bf16*>(y[i]) + at);
            else std::copy_n(sums, outputs, static_cast<float*>(y[i]) + at);
          });
        }
      }, count);
    });
  }

 private:
  static void put_rounded(const float* sums, int count, bf16* to) {
    int i = 0;
    for (; i + 16 <= count; i += 16) store(to + i, load(sums + i));
    bf16 rest[16];
    if (i < count) store(rest, load_first(sums + i, count - i, 0.0f)), std::copy_n(rest, count - i, to + i);
  }

  Arena arena_;
  typename Format::Matrix matrix_;
  const int threads_;
};

template <class Format>
using LinearOfBf16 = LinearOf<Format, bf16>;

template <class Number>
void rms_norm_rows(const void* x, const float* weight, int64_t rows, int dim, float eps, void* y) {
  const auto* from = static_cast<const Number*>(x);
  auto* to = static_cast<Number*>(y);
  std::vector<float> row(dim);
  for (int64_t i = 0; i < rows; ++i, from += dim, to += dim) {
    widen(from, dim, row.data());
    rms_norm(row.data(), weight, dim, eps, [&](int first, Lanes a, Lanes b) {
      store(to + first, a);
      if (first + 16 < dim) store(to + first + 16, b);
    });
  }
}

}  // namespace
}  // namespace glidecape

using namespace glidecape;

void* glidecape_decoder_create(const GlidecapeShape* shape, const GlidecapeEnds* ends,
                               int32_t quantized, int32_t threads) {
  return created([&] { return make_for<Decoder, DecoderOf>(quantized, *shape, *ends, threads); });
}

bool glidecape_decoder_set_layer(void* decoder, int32_t index, const GlidecapeLayer* layer) {
  return succeeds([&] { static_cast<Decoder*>(decoder)->set_layer(index, *layer); });
}

bool glidecape_decoder_run(void* decoder, const GlidecapeStep* step, const GlidecapeCache* caches,
                           const int64_t* token_ids, uint16_t* hidden) {
  return succeeds([&] { static_cast<Decoder*>(decoder)->run(*step, caches, token_ids, hidden); });
}

void glidecape_decoder_destroy(void* decoder) { delete static_cast<Decoder*>(decoder); }

void* glidecape_linear_create(const GlidecapeMatrix* weight, int32_t outputs, int32_t inputs,
                              int32_t threads) {
  const int type = weight->parts[0].type;
  return created([&]() -> Linear* {
    if (type == GLIDECAPE_FLOAT)
      return new LinearOf<PlainFormat<float, float>, float>(*weight, outputs, inputs, threads);
    return make_for<Linear, LinearOfBf16>(type != GLIDECAPE_BF16, *weight, outputs, inputs, threads);
  });
}

bool glidecape_linear_run(void* const* linears, int32_t count, const void* x, int32_t rows, int32_t rounded,
                          void* const* y) {
  return succeeds([&] {
    std::vector<Linear*> all;
    for (int i = 0; i < count; ++i) all.push_back(static_cast<Linear*>(linears[i]));
    all[0]->run(all.data(), count, x, rows, rounded, y);
  });
}

bool glidecape_rms_norm(const void* x, const float* weight, int64_t rows, int32_t dim, float eps,
                        int32_t is_float, void* y) {
  return succeeds([&] {
    const auto norm = is_float ? rms_norm_rows<float> : rms_norm_rows<bf16>;
    norm(x, weight, rows, dim, eps, y);
  });
}

void glidecape_linear_destroy(void* linear) { delete static_cast<Linear*>(linear); }

bool glidecape_best(const float* logits, int64_t rows, int64_t width, int64_t* best) {
  for (int64_t row = 0; row < rows; ++row) best[row] = largest_of(logits + row * width, width);
  return true;
}
