"""Pure batched tensor functions: attention read-outs, selectors, mergers, clusters, schedules. Torch only, no model."""
