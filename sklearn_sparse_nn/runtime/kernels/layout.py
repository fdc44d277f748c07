"""The layout of the arrays that the kernels read.

Plain ints, as numba takes them for constants.
"""

# Kinds of operations.
LINEAR, AFFINE, LAYER_NORM, ADD, CONCAT, SOFTMAX, LOG_SOFTMAX, MULTIPLY = range(8)

# Fields of an operation's line.
KIND, IN, IN2, OUT, N_IN, N_OUT = range(6)  # IN, IN2, OUT: rows of scratch
ACT, PARAMS = 6, 7  # code of the activation; where its two parameters (and eps) are
A, B = 8, 9  # where bias, or scale and shift, or a norm's weight and bias are
ENTRIES_AT, N_ENTRIES, TILE_WEIGHTS, TILE_COLUMNS = range(10, 14)
SLICES_AT, N_SLICES, SLICE_WEIGHTS, SLICE_COLUMNS = range(14, 18)
ORDER_AT, SLICE_BIAS = 18, 19
DENSE_LIMIT = 20  # up to so many rows are multiplied with all weights
DENSE_WEIGHTS, DENSE_BIAS = 21, 22
LAST = 23  # whether the value ends here, and a row of zeros follows
N_FIELDS = 24

# Fields of the line before them, beside OUT and N_OUT; -1 for what there is not.
WIDTH, SCRATCH_ROWS = 6, 7
FILL_AT, SHIFT_AT, SCALE_AT, COLUMNS_AT = range(8, 12)
SINGLE_LIMIT = 12  # up to so many rows are run one by one
WIDE_ONLY = 13  # whether all other tiles are 64 rows wide: a layer has no slices

# An entry: output row, number of columns, flags, first column of its panel.
ENTRY_FIELDS = 4
GROUPED = 4  # flag: four rows; beside the flags of a product
SHARED = 8  # flag: the next entry has the same columns

WIDE, NARROWEST = 64, 8  # rows of X in a tile; between them 16 and 32
SIDE = 64  # outputs of a dense layer that are taken at once
LANES = 16  # floats in a vector, and outputs in a slice
GROUP = 4  # output rows that share their columns

# Flags of a product: clip at zero; start from what is there, not from the bias.
RELU, ACCUMULATE = 1, 2
