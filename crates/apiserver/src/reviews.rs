//! Rows whose objects are questions: a create answers them with a status.

mod access;
pub(crate) mod token;

use api::{Object, Scope, Status};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use self::access::Whose;

use crate::body::Body;
use crate::call::Call;
use crate::codec;
use crate::registry::Review;

/// Answers a question.
pub(crate) async fn create(mut call: Call, review: Review) -> Result<Response<Body>, Status> {
    if call.row.scope == Scope::Namespaced && call.asked.namespace.is_empty() {
        return Err(call.wrong_method());
    }
    call.dry_run()?;
    let mut object = codec::read(&mut call).await?;
    let status = match review {
        Review::Token => token::status(&call, &object).await?,
        Review::SubjectAccess => access::status(&call, &object, Whose::Subject)?,
        Review::LocalSubjectAccess => access::status(&call, &object, Whose::Local)?,
        Review::SelfSubjectAccess => access::status(&call, &object, Whose::Own)?,
        Review::SelfSubjectRules => access::rules(&call, &object)?,
        Review::SelfSubject => {
            object.meta.creation_timestamp = Some(call.now.wire());
            json!({"userInfo": token::user_info(&call.identity)})
        }
    };
    // As upstream shows it: a question has no name, and was never created.
    object.body.insert("status".to_owned(), status);
    Ok(call.object(StatusCode::CREATED, &object))
}

/// The list of texts at a path.
fn texts(object: &Object, path: &str) -> Vec<String> {
    let list = object.at(path).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}
