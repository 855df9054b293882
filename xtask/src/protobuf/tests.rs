use super::*;

const CORE: &str = r#"
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Thing {
    /// pub struct InAComment {
    #[prost(message, optional, tag = "1")]
    pub metadata: ::core::option::Option<super::super::super::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    pub thing_source: ::core::option::Option<ThingSource>,
    #[prost(btree_map = "string, message", tag = "3")]
    pub limits: ::prost::alloc::collections::BTreeMap<
        ::prost::alloc::string::String,
        super::super::super::apimachinery::pkg::api::resource::Quantity,
    >,
    #[prost(btree_map = "string, message", tag = "4")]
    pub extra:
        ::prost::alloc::collections::BTreeMap<::prost::alloc::string::String, ExtraValue>,
    #[prost(int32, repeated, packed = "false", tag = "6")]
    pub ports: ::prost::alloc::vec::Vec<i32>,
    #[prost(bool, optional, tag = "7")]
    pub r#type: ::core::option::Option<bool>,
}
pub struct ThingSource {
    #[prost(message, optional, boxed, tag = "5")]
    pub host_ip: ::core::option::Option<::prost::alloc::boxed::Box<HostIp>>,
}
pub struct HostIp {}
pub struct ExtraValue {
    #[prost(string, repeated, tag = "1")]
    pub items: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
}
impl Thing {}
"#;
const META: &str = "pub struct ObjectMeta {}";
const RESOURCE: &str = "pub struct Quantity {\n#[prost(string, optional, tag = \"1\")]\npub string: Option<String>,\n}";

fn messages() -> Messages {
    let mut messages = Messages::default();
    for (module, text) in [
        ("api.core.v1", CORE),
        ("apimachinery.pkg.apis.meta.v1", META),
        ("apimachinery.pkg.api.resource", RESOURCE),
    ] {
        let module: Vec<String> = module.split('.').map(str::to_owned).collect();
        messages.read_module(text, &module).unwrap();
    }
    messages
}

fn table(fields: &str) -> String {
    format!(r#"{{"definition":"io.k8s.api.core.v1.Thing","fields":{{{fields}}},"kind":["","v1","Thing"]}}"#)
}

fn refused(fields: &str, pointers: &str) -> String {
    format!("{:#}", numbers(&table(fields), &messages(), pointers).unwrap_err())
}

#[test]
fn every_field_of_the_table_gets_its_number() {
    let fields = r#""kind":{"type":"string"},"metadata":{"type":"io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},
        "hostIP":{"type":"io.k8s.api.core.v1.HostIP"},"limits":{"type":"{}quantity"},"extra":{"type":"{}[]string"},
        "ports":{"type":"[]int32"},"type":{"type":"boolean"}"#
        .replace('\n', "");
    let pointers = "# a comment\nio.k8s.api.core.v1.Thing type";
    assert_eq!(
        numbers(&table(&fields), &messages(), pointers).unwrap(),
        "io.k8s.api.core.v1.Thing extra=4 hostIP=2.5 limits=3 metadata=1 ports=6 type=7?\n"
    );
}

#[test]
fn what_the_source_contradicts_is_refused() {
    let nobody = refused(r#""newer":{"type":"string"}"#, "");
    assert!(
        nobody.contains("definition io.k8s.api.core.v1.Thing: field newer has no number"),
        "{nobody}"
    );
    let other = refused(r#""ports":{"type":"[]int64"}"#, "");
    assert!(
        other.contains("field ports: the schema table has int64 where the wire has Scalar(\"int32\")"),
        "{other}"
    );
    let wrapped = refused(r#""limits":{"type":"{}[]string"}"#, "");
    assert!(wrapped.contains("field limits: its values are not wrapped lists"), "{wrapped}");
    let gone = refused(r#""type":{"type":"boolean"}"#, "io.k8s.api.core.v1.Thing gone");
    assert!(gone.contains(r#"the pointers {"gone"} of io.k8s.api.core.v1.Thing"#), "{gone}");
    let other = refused("", "io.k8s.api.core.v1.Other type");
    assert!(other.contains("io.k8s.api.core.v1.Other"), "{other}");
}
