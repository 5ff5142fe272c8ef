//! What the passes that are written out do not know of a model's variant: there autograd trains it, and says so. The
//! CPU's knows all of them.

use senmon_protocol::{model::variant::Variant, said, said::Said};

/// Why the pass for cards cannot train a variant; None where it can.
#[must_use]
pub fn card_lacks(variant: &Variant) -> Option<Said> {
    // Neither flash attention nor cuDNN's has them.
    let has_caps = variant.attention_cap.is_some() || variant.logit_cap.is_some();
    has_caps.then(|| said!("fused_pass_knows_no_caps"))
}
