// Which slots each row of a step sees: worked out once per step, used by every layer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "decoder.h"

namespace glidecape {

// A node sees one key per position: committed positions [0, context) through its block table, later
// ones along its path in the step's tree.
struct NodeKeys {
  const int64_t* committed;  // slot by position
  const int64_t* path;       // slot by position - context
  int context;
  int first, last;  // positions seen, both included

  int64_t slot(int position) const {
    return position < context ? committed[position] : path[position - context];
  }
};

// Neighbouring rows of one sequence: their attention reads the sequence's KV together.
struct RowBlock {
  int first, count;
};

class VisibleSlots {
 public:
  static constexpr int kRows = 8;

  void find(const GlidecapeStep& step) {
    committed_.clear();
    paths_.clear();
    rows_.clear();
    blocks_.clear();
    for (int i = 0, row = 0; i < step.num_sequences; row += static_cast<int>(step.node_counts[i++]))
      add_sequence(step, i, row);
  }

  const std::vector<RowBlock>& blocks() const { return blocks_; }

  // window: sliding window in tokens, 0 for none.
  NodeKeys keys(const GlidecapeStep& step, int row, int window) const {
    const Row& r = rows_[row];
    const int last = r.context + r.path_length - 1;
    const int64_t* path = r.path < 0 ? step.slots + r.first_row : paths_.data() + r.path;
    return {committed_.data() + r.committed, path, r.context,
            window ? std::max(0, last - window + 1) : 0, last};
  }

 private:
  struct Row {
    int64_t committed;  // index into committed_
    int64_t path;       // index into paths_; -1: a chain, whose path is the step's own slots
    int first_row, context, path_length;
  };

  void add_sequence(const GlidecapeStep& step, int sequence, int first_row) {
    const int context = static_cast<int>(step.context_lens[sequence]);
    const int nodes = static_cast<int>(step.node_counts[sequence]);
    const int64_t* table = step.block_tables + static_cast<int64_t>(sequence) * step.max_blocks;
    const int64_t committed = static_cast<int64_t>(committed_.size());
    for (int start = 0; start < context; start += step.block_size, ++table)
      for (int i = 0; i < std::min(step.block_size, context - start); ++i)
        committed_.push_back(*table * step.block_size + i);
    for (int node = 0; node < nodes; ++node) {
      Row row{committed, -1, first_row, context, node + 1};
      if (step.ancestors) add_path(step, first_row, node, row);
      rows_.push_back(row);
      if (node % kRows == 0)
        blocks_.push_back({first_row + node, std::min(kRows, nodes - node)});
    }
  }

  void add_path(const GlidecapeStep& step, int first_row, int node, Row& row) {
    row.path = static_cast<int64_t>(paths_.size());
    const uint8_t* ancestors = step.ancestors + static_cast<int64_t>(first_row + node) * step.max_nodes;
    for (int i = 0; i <= node; ++i)
      if (ancestors[i]) paths_.push_back(step.slots[first_row + i]);
    row.path_length = static_cast<int>(paths_.size() - row.path);
  }

  std::vector<int64_t> committed_, paths_;
  std::vector<Row> rows_;
  std::vector<RowBlock> blocks_;
};

}  // namespace glidecape
