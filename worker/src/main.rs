fn main() {}
use tch as _;
