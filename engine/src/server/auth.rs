//! One password for all endpoints, by HTTP basic authentication; the user's name does not matter.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::prelude::{BASE64_STANDARD, Engine};

use super::ServerError;

/// A password; it is shown nowhere.
pub(super) struct Password(Vec<u8>);

impl Password {
    /// The content of a file, without the white space around it.
    pub(super) fn read(path: &str) -> Result<Password, ServerError> {
        let refuse = |reason: String| ServerError::Password { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        match text.trim() {
            "" => Err(refuse("it is empty; write a password into it".to_owned())),
            password => Ok(Password(password.as_bytes().to_vec())),
        }
    }

    // As long for a wrong password as for the right one.
    fn is(&self, given: &[u8]) -> bool {
        let differences = self.0.iter().enumerate().filter(|(i, byte)| given.get(*i) != Some(byte)).count();
        differences == 0 && given.len() == self.0.len()
    }
}

/// Lets requests with the password through.
pub(super) async fn check(State(password): State<Arc<Password>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| credentials(value.as_bytes()));
    if given.is_some_and(|given| password.is(&given)) {
        return next.run(request).await;
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"meterline\", charset=\"UTF-8\"")];
    (StatusCode::UNAUTHORIZED, challenge, "a password is needed (http.password_file)\n").into_response()
}

// The password of `Basic base64(user:password)`.
fn credentials(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, encoded) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded[colon + 1..].to_vec())
}
