//! `senmon checkpoint export`: a model folder for others, in the number format they want.

use crate::{
    client::Client,
    error::{CliError, CliResult},
    lang::own,
};
use half::bf16;
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
    /// The bits of the checkpoint.
    Fp32,
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
        if name == CONFIG_FILE && dtype == Dtype::Bf16 {
            bytes = as_bf16(&bytes).map_err(|error| failed(&error))?;
        }
        fs::write(unfinished.join(name), bytes).map_err(|error| failed(&error))?;
    }
    let target = unfinished.join(MODEL_FILE);
    let source = format!("/checkpoints/{id}/files/{MODEL_FILE}");
    match dtype {
        Dtype::Fp32 => client.download(&source, &target).await?,
        Dtype::Bf16 => {
            let whole = unfinished.join("fp32");
            client.download(&source, &whole).await?;
            convert(&whole, &target).map_err(|error| failed(&error))?;
            fs::remove_file(&whole).map_err(|error| failed(&error))?;
        }
    }
    let bytes = fs::metadata(&target).map_err(|error| failed(&error))?.len();
    fs::rename(&unfinished, folder).map_err(|error| failed(&error))?;
    Ok(bytes)
}

/// `config.json` of the same model in bf16.
fn as_bf16(config: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut config: serde_json::Value = serde_json::from_slice(config)?;
    config["torch_dtype"] = "bfloat16".into();
    Ok(serde_json::to_vec_pretty(&config)?)
}

/// A tensor that becomes bf16 when it is written: one at a time is in memory twice.
struct Rounded<'a>(TensorView<'a>);

impl View for Rounded<'_> {
    fn dtype(&self) -> FileDtype {
        FileDtype::BF16
    }
    fn shape(&self) -> &[usize] {
        self.0.shape()
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let numbers = self.0.data().as_chunks::<4>().0.iter().map(|word| bf16::from_f32(f32::from_le_bytes(*word)));
        Cow::Owned(numbers.flat_map(bf16::to_le_bytes).collect())
    }
    fn data_len(&self) -> usize {
        self.0.data().len() / 2
    }
}

fn convert(from: &Path, to: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(from)?;
    let parsed = SafeTensors::deserialize(&bytes)?;
    let tensors = parsed.tensors();
    if let Some((name, view)) = tensors.iter().find(|(_, view)| view.dtype() != FileDtype::F32) {
        anyhow::bail!("{MODEL_FILE}: tensor {name} is {:?}, expected F32", view.dtype());
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let rounded = tensors.into_iter().map(|(name, view)| (name, Rounded(view)));
    Ok(safetensors::serialize_to_file(rounded, Some(metadata), to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_rounded_to_the_nearest() {
        let folder = std::env::temp_dir().join(format!("senmon-export-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let values: Vec<u8> = [1.0_f32, 1.003_906_3, -3.1, 0.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = TensorView::new(FileDtype::F32, vec![2, 2], &values).unwrap();
        let (from, to) = (folder.join("from"), folder.join("to"));
        safetensors::serialize_to_file([("w", view)], None, &from).unwrap();
        convert(&from, &to).unwrap();
        let bytes = fs::read(&to).unwrap();
        let parsed = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = parsed.tensor("w").unwrap();
        let found: Vec<f32> =
            tensor.data().as_chunks::<2>().0.iter().map(|word| bf16::from_le_bytes(*word).to_f32()).collect();
        assert_eq!((tensor.shape(), found.as_slice()), (&[2, 2][..], &[1.0, 1.0, -3.093_75, 0.0][..]));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_config_says_bf16() {
        let config = as_bf16(br#"{"torch_dtype": "float32", "hidden_size": 8}"#).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        assert_eq!((&config["torch_dtype"], &config["hidden_size"]), (&"bfloat16".into(), &8.into()));
    }
}
