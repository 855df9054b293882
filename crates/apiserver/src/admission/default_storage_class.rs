//! A claim that names no class gets the default one.
//!
//! Source: upstream `plugin/pkg/admission/storage/storageclass/setdefault/admission.go`,
//! `pkg/volume/util/storageclass.go` `GetDefaultClass`.

use api::{Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Plugin};
use crate::kinds::is_default_class;

const CLAIMS: &str = "persistentvolumeclaims";
/// Where a claim named its class before it had a field.
const OLD_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// The plugin `DefaultStorageClass`.
pub(super) struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn handles(&self, asked: &Attributes<'_>) -> bool {
        asked.creates("", CLAIMS)
    }

    async fn admit(&self, asked: &Attributes<'_>, claim: &mut Object) -> Result<(), Status> {
        let annotated = claim.meta.annotations.as_ref().is_some_and(|map| map.contains_key(OLD_ANNOTATION));
        let named = claim.at("spec.storageClassName").is_some_and(Value::is_string);
        if annotated || named {
            return Ok(()); // also when it names none on purpose
        }
        let classes = asked.lookup.objects("storage.k8s.io", "storageclasses", "").await?;
        let defaults = classes.iter().filter(|class| is_default_class(class));
        // The newest, should there be several; then the first by name.
        let made = |class: &&std::sync::Arc<Object>| class.meta.creation_timestamp.as_ref().map(api::Time::from);
        let newest = defaults.max_by(|a, b| made(a).cmp(&made(b)).then_with(|| b.name().cmp(a.name())));
        if let (Some(class), Some(Value::Object(spec))) = (newest, claim.body.get_mut("spec")) {
            spec.insert("storageClassName".to_owned(), Value::from(class.name()));
        }
        Ok(())
    }
}
