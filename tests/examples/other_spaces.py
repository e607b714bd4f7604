"""Search spaces of other shapes: stages, bins, strides, images.

  python tests/examples/other_spaces.py

`SearchSpace.expanded` makes equal bins, and the fields themselves accept any.
The four stages here have bins of their own: unequal ones, some with a gap, and
a single one. Strides may be any, and images need not be square.
"""

import jax

import nss_jax as nss

SPACE = nss.SearchSpace(
  depth_bins=(
    ((1, 1), (2, 4)),
    ((1, 2), (3, 3), (4, 6)),
    ((2, 5),),  # nothing to choose
    ((1, 1), (2, 2)),
  ),
  width_bins=(
    ((4, 8), (9, 12)),
    ((6, 6), (7, 15), (16, 18)),
    ((8, 12), (20, 24)),  # 13 to 19 are not on offer
    ((10, 30),),
  ),
  strides=(2, 1, 3, 1),
  stem_width=6,
  image_shape=(30, 42, 1),
  num_classes=7,
)
TARGET = 1.0e6  # multiply-adds


keys = jax.random.split(jax.random.key(0), 3)
# With all logits zero this is the space nearest to the target; after a search
# it is the most probable one of those within 5 % of it.
found = nss.elite_candidates(SPACE, nss.init_logits(SPACE), TARGET, 0.05)
elite = jax.tree.map(lambda x: x[0], found.spaces)
archs = nss.sample_archs(keys[0], SPACE, elite, 3)
arch = jax.tree.map(lambda x: x[0], archs)
weights = nss.init_weights(keys[1], SPACE)
images = jax.random.normal(keys[2], (4, *SPACE.image_shape))
# One bucket of widths for each stage compiles fastest.
buckets = tuple((width,) for width in SPACE.max_widths)
masked = nss.apply_masked(SPACE, weights, images, nss.arch_masks(SPACE, arch))
sliced = nss.apply_sliced(SPACE, weights, images, arch, buckets=buckets)
print(f"{SPACE.num_spaces} spaces of {SPACE.num_archs} archs")
print(*nss.describe_space(SPACE, elite), sep="\n")
macs = nss.arch_macs(SPACE, archs)
print(f"{found.costs[0, 0]:.0f} MACs in the mean; archs {macs}")
print(f"masked and sliced differ by {abs(masked - sliced).max():.1e}")
