//! What a configuration says of images: how many are pulled at once, and which of them are verified.

use std::num::NonZeroUsize;

use super::Reading;
use crate::config::KubeletConfig;
use crate::images::access::{Verification, pattern_fault};

impl Reading<'_> {
    /// Unlike upstream, pulls are not serialized where nothing is said.
    pub(super) fn image_pulls(&mut self, config: &mut KubeletConfig) {
        let serialized = self.document.bool_at(&["serializeImagePulls"]);
        let limit = self.document.int_at(&["maxParallelImagePulls"]);
        let at_once = limit.map(|limit| usize::try_from(limit).ok().and_then(NonZeroUsize::new));
        match (serialized, at_once) {
            (_, Some(None)) => self.faults.push(format!("maxParallelImagePulls {} must be a positive number", limit.unwrap_or_default())),
            (Some(true), Some(Some(limit))) if limit > NonZeroUsize::MIN => {
                self.faults.push(
                    "maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) set to false"
                        .into(),
                );
            }
            (Some(true), _) => config.parallel_image_pulls = Some(NonZeroUsize::MIN),
            (_, Some(limit)) => config.parallel_image_pulls = limit,
            (_, None) => {}
        }
    }

    pub(super) fn image_verification(&mut self, config: &mut KubeletConfig) {
        let allowlist = self.texts("preloadedImagesVerificationAllowlist").unwrap_or_default();
        for pattern in &allowlist {
            if let Some(why) = pattern_fault(pattern) {
                self.faults.push(format!("preloadedImagesVerificationAllowlist {pattern:?}: {why}"));
            }
        }
        let policy = self.text("imagePullCredentialsVerificationPolicy").unwrap_or("NeverVerifyPreloadedImages").to_string();
        if !allowlist.is_empty() && policy != "NeverVerifyAllowlistedImages" {
            let why = "can only be set when imagePullCredentialsVerificationPolicy is NeverVerifyAllowlistedImages";
            self.faults.push(format!("preloadedImagesVerificationAllowlist {why}"));
        }
        let all = [
            Verification::NeverVerify,
            Verification::NeverVerifyPreloadedImages,
            Verification::NeverVerifyAllowlistedImages(allowlist),
            Verification::AlwaysVerify,
        ];
        let words: Vec<&str> = all.iter().map(Verification::word).collect();
        match all.iter().find(|one| one.word() == policy) {
            Some(one) => config.image_verification = one.clone(),
            None => self.faults.push(format!("imagePullCredentialsVerificationPolicy {policy:?} must be one of: {words:?}")),
        }
    }
}
