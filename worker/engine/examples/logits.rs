//! Logits of a checkpoint folder by the worker's own code: `logits FOLDER 1,2,3 OUT.safetensors`, for comparison with
//! `transformers` on the same tokens.

use anyhow::{Context, Result, bail};
use safetensors::{Dtype, tensor::TensorView};
use senmon_engine::{checkpoint::from_host, hub::load_model, model::Model};
use std::path::Path;
use tch::{Device, Kind, Tensor, no_grad};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, tokens, out] = arguments.as_slice() else {
        bail!("usage: logits FOLDER TOKEN,TOKEN,... OUT.safetensors")
    };
    let tokens: Vec<i64> =
        tokens.split(',').map(|token| token.trim().parse().context("a token id")).collect::<Result<_>>()?;
    let (spec, weights) = load_model(Path::new(folder))?;
    let length = i64::try_from(tokens.len())?;
    let model = Model::new(spec, &from_host(&weights), Device::Cpu, Kind::Float, length, false);
    let logits = no_grad(|| model.logits(&Tensor::from_slice(&tokens).view([1, length]))).squeeze_dim(0).contiguous();
    let shape: Vec<usize> = logits.size().iter().map(|&n| usize::try_from(n)).collect::<Result<_, _>>()?;
    let bytes: Vec<u8> = Vec::<f32>::try_from(&logits.view(-1))?.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, shape, &bytes)?;
    safetensors::serialize_to_file([("logits", view)], None, Path::new(out)).context("write the logits")
}
