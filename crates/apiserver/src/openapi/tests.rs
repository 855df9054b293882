use serde_json::{Value, json};

use crate::testing::Rig;

const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Every reference of a document has its definition.
fn assert_whole(text: &str, marker: &str, definitions: &Value) {
    let definitions = definitions.as_object().unwrap();
    assert!(definitions.len() > 5);
    for reference in text.split(marker).skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(definitions.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn every_group_has_a_document_with_paths_and_shapes() {
    let rig = Rig::new().await;
    let index = rig.get("/openapi/v3").await.json();
    let paths = index["paths"].as_object().unwrap();
    assert!(paths.len() > 3);
    for (group, at) in paths {
        let answer = rig.get(at["serverRelativeURL"].as_str().unwrap()).await;
        assert_eq!(answer.code, 200, "{group}");
        let document = answer.json();
        assert!(!document["paths"].as_object().unwrap().is_empty(), "{group}");
        let text = document.to_string();
        assert_whole(&text, "\"#/components/schemas/", &document["components"]["schemas"]);
        let mut ids: Vec<&str> = text
            .split("\"operationId\":\"")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap())
            .collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "{group}: an operation is there twice");
    }
}

#[tokio::test]
async fn a_field_says_all_the_table_knows() {
    let rig = Rig::new().await;
    let document = rig.get("/openapi/v3/api/v1").await.json();
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert_eq!(
        (
            &patch["x-kubernetes-group-version-kind"],
            &patch["x-kubernetes-action"],
            &patch["operationId"]
        ),
        (
            &json!({"group": "", "version": "v1", "kind": "Pod"}),
            &json!("patch"),
            &json!("patchCoreV1NamespacedPod")
        )
    );
    let named = |name: &str| {
        let parameters = patch["parameters"].as_array().unwrap();
        parameters
            .iter()
            .any(|parameter| parameter["name"] == name && parameter["in"] == "query")
    };
    assert!(named("fieldValidation") && named("dryRun") && named("force"));
    let list = &document["paths"]["/api/v1/pods"]["get"];
    assert_eq!(
        list["responses"]["200"]["content"]["application/json"]["schema"]["$ref"],
        "#/components/schemas/io.k8s.api.core.v1.PodList"
    );
    let schemas = &document["components"]["schemas"];
    let spec = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"];
    assert_eq!(
        (
            &spec["containers"]["x-kubernetes-patch-merge-key"],
            &spec["containers"]["x-kubernetes-patch-strategy"],
            &spec["containers"]["x-kubernetes-list-type"],
            &spec["containers"]["x-kubernetes-list-map-keys"],
            &spec["containers"]["items"],
        ),
        (
            &json!("name"),
            &json!("merge"),
            &json!("map"),
            &json!(["name"]),
            &json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.Container"}], "default": {}}),
        )
    );
    assert_eq!(spec["restartPolicy"]["enum"], json!(["Always", "Never", "OnFailure"]));
    assert!(spec["affinity"]["description"].as_str().unwrap().starts_with("If specified"));
    assert_eq!(
        spec["overhead"]["additionalProperties"]["$ref"],
        "#/components/schemas/io.k8s.apimachinery.pkg.api.resource.Quantity"
    );
    let port = &schemas["io.k8s.api.core.v1.ContainerPort"]["properties"];
    assert_eq!(
        (&port["protocol"]["default"], &port["containerPort"]["default"]),
        (&json!("TCP"), &json!(0))
    );
    assert_eq!(schemas["io.k8s.api.core.v1.ObjectFieldSelector"]["x-kubernetes-map-type"], "atomic");
}

#[tokio::test]
async fn a_client_that_has_the_document_is_told_so() {
    let rig = Rig::new().await;
    let index = rig.get("/openapi/v3").await;
    let url = index.json()["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = rig.get(&url).await;
    assert_eq!(document.headers["cache-control"], "public, immutable, max-age=31536000");
    let hash = url.split("hash=").nth(1).unwrap();
    assert_eq!(document.headers["etag"], format!("\"{hash}\"").as_str());
    let etag = document.headers["etag"].to_str().unwrap().to_owned();
    for (url, etag) in [
        (url.as_str(), etag),
        ("/openapi/v3", index.headers["etag"].to_str().unwrap().to_owned()),
    ] {
        let again = rig.get_with(url, &[("if-none-match", &etag)]).await;
        assert_eq!((again.code, again.text.len()), (304, 0), "{url}");
    }
    let moved = rig.get("/openapi/v3/api/v1?hash=OLD").await;
    assert_eq!((moved.code, moved.headers["location"].to_str().unwrap()), (301, url.as_str()));
    assert_eq!(rig.get("/openapi/v3/apis/x.io/v1").await.code, 404);
    assert_eq!(rig.get_as("/openapi/v3/api/v1", "application/xml").await.code, 406);
}

#[tokio::test]
async fn one_document_of_everything_in_two_encodings() {
    let rig = Rig::new().await;
    let document = rig.get_as("/openapi/v2", "application/json").await.json();
    let text = document.to_string();
    assert_whole(&text, "\"#/definitions/", &document["definitions"]);
    let pod = &document["definitions"]["io.k8s.api.core.v1.Pod"];
    assert_eq!(
        pod["x-kubernetes-group-version-kind"],
        json!([{"group": "", "kind": "Pod", "version": "v1"}])
    );
    assert_eq!(pod["properties"]["spec"]["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
    let encoded = rig.get_as("/openapi/v2", GNOSTIC).await;
    assert_eq!(
        (encoded.code, encoded.headers["content-type"].to_str().unwrap()),
        (200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
    );
    let etag = encoded.headers["etag"].to_str().unwrap();
    assert_eq!(
        rig.get_with("/openapi/v2", &[("if-none-match", etag), ("accept", GNOSTIC)])
            .await
            .code,
        304
    );
    assert_eq!(rig.get_as("/openapi/v2", "text/html").await.code, 406);
}
