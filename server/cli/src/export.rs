//! `senmon checkpoint export`: a model folder for others, in the number format they want.

use crate::{
    client::Client,
    error::{CliError, CliResult},
    lang::own,
};
use half::{bf16, f16};
use safetensors::{Dtype as FileDtype, SafeTensors, View, tensor::TensorView};
use senmon_protocol::{ids::CheckpointId, said};
use serde::Serialize;
use std::{borrow::Cow, collections::HashMap, fs, path::Path};

const MODEL_FILE: &str = "model.safetensors";
const CONFIG_FILE: &str = "config.json";
/// What a model folder consists of, besides the weights.
const BESIDE: [&str; 3] = [CONFIG_FILE, "tokenizer.json", "tokenizer_config.json"];

/// Number format of exported weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// bfloat16, to the nearest: half the size.
    Bf16,
    /// IEEE's half precision, to the nearest: half the size; refused where a weight is too large for it.
    Fp16,
    /// The bits of the checkpoint.
    Fp32,
}

impl Dtype {
    /// Its names in `config.json` and in files of weights.
    fn named(self) -> (&'static str, FileDtype) {
        match self {
            Self::Bf16 => ("bfloat16", FileDtype::BF16),
            Self::Fp16 => ("float16", FileDtype::F16),
            Self::Fp32 => ("float32", FileDtype::F32),
        }
    }
}

/// Fetches a checkpoint's model into a new folder; returns the bytes of the weights. The folder appears whole or not
/// at all.
///
/// # Errors
/// When the folder exists, the server does not answer, or the disk refuses.
pub async fn run(client: &Client, id: CheckpointId, folder: &Path, dtype: Dtype) -> CliResult<u64> {
    let refused = |message: String| CliError::Refused(format!("{}: {message}", folder.display()));
    let failed = |error: &dyn std::fmt::Display| CliError::Failed(format!("{}: {error}", folder.display()));
    if folder.exists() {
        return Err(refused(own(&said!("folder_exists"))));
    }
    let unfinished = folder.with_extension("unfinished");
    fs::create_dir_all(&unfinished).map_err(|error| failed(&error))?;
    for name in BESIDE {
        let mut bytes = client.bytes(&format!("/checkpoints/{id}/files/{name}")).await?;
        if name == CONFIG_FILE {
            bytes = in_format(&bytes, dtype).map_err(|error| failed(&error))?;
        }
        fs::write(unfinished.join(name), bytes).map_err(|error| failed(&error))?;
    }
    let target = unfinished.join(MODEL_FILE);
    let source = format!("/checkpoints/{id}/files/{MODEL_FILE}");
    match dtype {
        Dtype::Fp32 => client.download(&source, &target).await?,
        Dtype::Bf16 | Dtype::Fp16 => {
            let whole = unfinished.join("fp32");
            client.download(&source, &whole).await?;
            convert(&whole, &target, dtype).map_err(|error| failed(&error))?;
            fs::remove_file(&whole).map_err(|error| failed(&error))?;
        }
    }
    let bytes = fs::metadata(&target).map_err(|error| failed(&error))?.len();
    fs::rename(&unfinished, folder).map_err(|error| failed(&error))?;
    Ok(bytes)
}

/// `config.json` of the same model in another format.
fn in_format(config: &[u8], dtype: Dtype) -> anyhow::Result<Vec<u8>> {
    let mut config: serde_json::Value = serde_json::from_slice(config)?;
    config["torch_dtype"] = dtype.named().0.into();
    Ok(serde_json::to_vec_pretty(&config)?)
}

/// A tensor that becomes bf16 or fp16 when it is written: one at a time is in memory twice.
struct Rounded<'a>(TensorView<'a>, Dtype);

impl View for Rounded<'_> {
    fn dtype(&self) -> FileDtype {
        self.1.named().1
    }
    fn shape(&self) -> &[usize] {
        self.0.shape()
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let numbers = self.0.data().as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word));
        Cow::Owned(match self.1 {
            Dtype::Fp16 => numbers.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
            _ => numbers.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
        })
    }
    fn data_len(&self) -> usize {
        self.0.data().len() / 2
    }
}

fn convert(from: &Path, to: &Path, dtype: Dtype) -> anyhow::Result<()> {
    let bytes = fs::read(from)?;
    let parsed = SafeTensors::deserialize(&bytes)?;
    let tensors = parsed.tensors();
    for (name, view) in &tensors {
        anyhow::ensure!(
            view.dtype() == FileDtype::F32,
            "{MODEL_FILE}: tensor {name} is {:?}, expected F32",
            view.dtype()
        );
        let mut values = view.data().as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word));
        let large = values.find(|value| dtype == Dtype::Fp16 && !f16::from_f32(*value).is_finite());
        if let Some(large) = large {
            let most = f16::MAX;
            anyhow::bail!("{MODEL_FILE}: tensor {name} holds {large}, expected {most} at most in fp16; bf16 has room");
        }
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let rounded = tensors.into_iter().map(|(name, view)| (name, Rounded(view, dtype)));
    Ok(safetensors::serialize_to_file(rounded, Some(metadata), to)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// What `values` become in a file of another format.
    fn converted(values: &[f32], dtype: Dtype) -> anyhow::Result<Vec<u8>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("senmon-export-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = TensorView::new(FileDtype::F32, vec![2, values.len() / 8], &values)?;
        let (from, to) = (folder.join("from"), folder.join("to"));
        safetensors::serialize_to_file([("w", view)], None, &from)?;
        let bytes = convert(&from, &to, dtype).and_then(|()| Ok(fs::read(&to)?));
        fs::remove_dir_all(&folder)?;
        let bytes = bytes?;
        let parsed = SafeTensors::deserialize(&bytes)?;
        let tensor = parsed.tensor("w")?;
        assert_eq!((tensor.shape(), tensor.dtype()), (&[2, values.len() / 8][..], dtype.named().1));
        Ok(tensor.data().to_vec())
    }

    #[test]
    fn weights_are_rounded_to_the_nearest() {
        let halves = |bytes: Vec<u8>| bytes.as_chunks::<2>().0.to_vec();
        let found = halves(converted(&[1.0, 1.003_906_3, -3.1, 0.0], Dtype::Bf16).unwrap());
        let found: Vec<f32> = found.into_iter().map(|word| bf16::from_le_bytes(word).to_f32()).collect();
        assert_eq!(found, [1.0, 1.0, -3.093_75, 0.0]);
        let found = halves(converted(&[1.0, 1.000_488_3, -3.1, 1e-9], Dtype::Fp16).unwrap());
        let found: Vec<f32> = found.into_iter().map(|word| f16::from_le_bytes(word).to_f32()).collect();
        assert_eq!(found, [1.0, 1.0, -3.099_609_4, 0.0]);
    }

    #[test]
    fn a_weight_that_fp16_cannot_hold_is_named() {
        let error = converted(&[1.0, 70_000.0], Dtype::Fp16).unwrap_err().to_string();
        assert!(error.contains("tensor w holds 70000, expected 65504 at most"), "{error}");
        assert!(converted(&[1.0, 70_000.0], Dtype::Bf16).is_ok());
    }

    #[test]
    fn the_config_says_the_format() {
        for (dtype, name) in [(Dtype::Bf16, "bfloat16"), (Dtype::Fp16, "float16"), (Dtype::Fp32, "float32")] {
            let config = in_format(br#"{"torch_dtype": "float32", "hidden_size": 8}"#, dtype).unwrap();
            let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
            assert_eq!((&config["torch_dtype"], &config["hidden_size"]), (&name.into(), &8.into()));
        }
    }
}
