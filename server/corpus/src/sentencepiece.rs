//! Folders with a sentencepiece model and no `tokenizer.json`: not read, and the refusal says what converts them.

use crate::roots::Roots;
use senmon_protocol::{said, said::Said};
use std::path::Path;

/// The name under which such models lie.
const MODEL: &str = "tokenizer.model";

/// The refusal, where `path` is a sentencepiece model, or names a `tokenizer.json` that is not there beside one.
#[must_use]
pub fn refusal(path: &Path, roots: &Roots) -> Option<Said> {
    let model = if path.extension().is_some_and(|extension| extension == "model") {
        path.to_owned()
    } else if roots.place(path).is_err() {
        path.with_file_name(MODEL)
    } else {
        return None;
    };
    let real = roots.place(&model).ok()?;
    let folder = real.parent()?.display().to_string();
    Some(said!("sentencepiece_model", model = model.display().to_string(), folder = format!("{folder:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_converts_a_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let roots = Roots::whole_disk();
        assert_eq!(refusal(&path("tokenizer.json"), &roots), None);
        fs::write(path(MODEL), b"\n\x0e\n\x05<unk>").unwrap();
        for name in ["tokenizer.json", MODEL] {
            let why = refusal(&path(name), &roots).unwrap().text();
            assert!(why.contains("tokenizer.model, a sentencepiece") && why.contains("save_pretrained("), "{why}");
        }
        fs::write(path("tokenizer.json"), b"{}").unwrap();
        assert_eq!(refusal(&path("tokenizer.json"), &roots), None);
    }
}
