//! The way of a new SVID into its directory, for `issue`, `renew` and operators alike.

use api::{ABANDONED, Attestation, IssueRequest, IssuedCertificate, ProblemType};
use countersign::AuthorityClient;
use countersign::svid_folder::{CHAIN, Contents, KEY, Lock, RECORD, SvidFolder};
use identity::SerialNumber;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::acceptance::{Asked, accept};
use crate::chain;
use crate::error::Error;
use crate::pending::{Line, PendingRequest};
use crate::svid_record::{SvidRecord, Wish};
use crate::trust::HeldTrust;

/// A place for an SVID, and the CA to ask for it.
pub(crate) struct Installation<'a> {
    pub(crate) directory: &'a SvidFolder,
    /// Held from before the pending request is read until the files are replaced.
    pub(crate) lock: &'a Lock,
    pub(crate) url: &'a str,
    pub(crate) client: &'a AuthorityClient,
    /// Whether what is asked for follows from what is there.
    pub(crate) line: Line,
}

impl Installation<'_> {
    /// Asks for a certificate and installs it with its new key: both, or neither.
    ///
    /// Key and request are persisted first, so that after a crash or a lost answer the same
    /// command asks with the same request again; what is refused for good is forgotten, and so is what
    /// was refused at once: its key is of use to nobody. Where nothing can be installed, nothing is asked
    /// for: a token counts once.
    pub(crate) async fn run(
        &self,
        wish: &Wish,
        attestation: Attestation,
        held: HeldTrust,
        now: OffsetDateTime,
    ) -> Result<IssuedCertificate, Error> {
        self.directory.require_room(self.lock, &held.contents())?;
        let pending = PendingRequest::resume_or_create(self.directory, wish, self.line)?;
        let request = issue_request(&pending.csr, wish, attestation);
        let key = idempotency_key(&request, None);
        let answer = match self.client.issue(&request, Some(&key)).await {
            Ok(answer) => answer,
            Err(error) => {
                if is_final(&error) || (pending.is_new && is_refusal(&error)) {
                    PendingRequest::forget(self.directory)?;
                }
                return Err(error.into());
            }
        };
        let held = held.follow(answer.trust_sequence, self.url).await?;
        let public_key = pending.request.public_key();
        let asked = Asked { spiffe_id: &wish.spiffe_id, public_key };
        accept(&answer, &asked, &held.trust, now)?;
        self.directory.replace(self.contents(&answer, &pending, wish, &held), self.lock)?;
        PendingRequest::forget(self.directory)?;
        Ok(answer)
    }

    fn contents(
        &self,
        answer: &IssuedCertificate,
        pending: &PendingRequest,
        wish: &Wish,
        held: &HeldTrust,
    ) -> Contents {
        let record = SvidRecord::new(answer, wish, self.url, held.pin());
        let mut contents = held.contents();
        contents.insert(CHAIN, Zeroizing::new(answer.chain.clone().into_bytes()));
        contents.insert(KEY, Zeroizing::new(pending.key.as_bytes().to_vec()));
        contents.insert(RECORD, Zeroizing::new(record.to_json()));
        contents
    }
}

/// The request for a certificate whose names stand in the CSR.
fn issue_request(csr: &str, wish: &Wish, attestation: Attestation) -> IssueRequest {
    IssueRequest {
        csr: csr.to_owned(),
        spiffe_id: Some(wish.spiffe_id.clone()),
        dns: wish.nameless.then(Vec::new),
        ip: None,
        profile: wish.profile.clone(),
        ttl: wish.ttl,
        attestation,
    }
}

/// The very same that is asked has the same key, so that a lost answer is answered again; whatever
/// else is asked with the same key of a workload's has another. So has what is asked once more after a
/// certificate that the CA has issued for it.
pub(crate) fn idempotency_key(request: &IssueRequest, after: Option<&SerialNumber>) -> String {
    let asked = serde_json::to_vec(request).map(Zeroizing::new).expect("a request is plain data");
    let after = after.map(|serial_number| format!("-{serial_number}")).unwrap_or_default();
    format!("issue-{}{after}", chain::sha256_hex(&asked))
}

/// Whether the CA says no, and so has made nothing of the request. Of one that was sent before it may
/// have: whoever is let in again renews with that, where another key would break the line.
fn is_refusal(error: &countersign::Error) -> bool {
    match error {
        countersign::Error::Authority(problem) => problem.status < 500 && problem.status != 429,
        countersign::Error::Refused { .. } => true,
        _ => false,
    }
}

/// Whether sending this very request again can never succeed.
fn is_final(error: &countersign::Error) -> bool {
    match error {
        countersign::Error::Authority(problem) => {
            problem.rule.as_deref() == Some(ABANDONED)
                || matches!(
                    problem.problem_type,
                    ProblemType::CsrInvalid | ProblemType::IdempotencyMismatch
                )
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Problem;

    /// A request that waits for its answer would be sent again and again, until the SVID has expired.
    #[test]
    fn what_can_never_succeed_is_not_sent_again() {
        let told = |problem_type: ProblemType, rule: Option<&str>| {
            countersign::Error::Authority(Box::new(Problem {
                problem_type,
                title: "title".into(),
                status: problem_type.status(),
                detail: "detail".into(),
                request_id: "1".into(),
                next_step: None,
                policies: vec![],
                rule: rule.map(ToOwned::to_owned),
            }))
        };
        assert!(is_final(&told(ProblemType::Conflict, Some(ABANDONED))));
        assert!(is_final(&told(ProblemType::CsrInvalid, Some("key"))));
        assert!(!is_final(&told(ProblemType::Conflict, None)), "the denial may be lifted");
        assert!(!is_final(&told(ProblemType::StoreUnavailable, None)));
    }
}
