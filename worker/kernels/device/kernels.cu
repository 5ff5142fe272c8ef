// What NVRTC compiles: every kernel, for one number format and one width.
#include "layer.hpp"
#include "norm.hpp"
#include "heads.hpp"
#include "loss.hpp"
#include "optimizer.hpp"
