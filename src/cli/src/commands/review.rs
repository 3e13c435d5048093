//! What somebody did that stays when they are revoked or denied: a person has to look at it.

use std::collections::BTreeMap;

use api::{ActFilter, ActOnRecord, Denial, Revocation};
use countersign::AuthorityClient;
use identity::SpiffeId;

use crate::error::Error;
use crate::output::Format;
use crate::session::Session;
use crate::table;

/// What an answer says of it.
pub(crate) struct Review<'a> {
    by: &'a SpiffeId,
    acts: &'a [ActOnRecord],
    counts: &'a BTreeMap<String, u64>,
    more: u64,
    tokens_from: Option<u64>,
}

impl<'a> Review<'a> {
    pub(crate) fn of_denial(denial: &'a Denial) -> Self {
        let Denial { review, review_counts, review_more, review_tokens_from, .. } = denial;
        Self {
            by: &denial.spiffe_id,
            acts: review,
            counts: review_counts,
            more: *review_more,
            tokens_from: *review_tokens_from,
        }
    }

    pub(crate) fn of_revocation(revocation: &'a Revocation) -> Self {
        let Revocation { review, review_counts, review_more, review_tokens_from, .. } = revocation;
        Self {
            by: &revocation.spiffe_id,
            acts: review,
            counts: review_counts,
            more: *review_more,
            tokens_from: *review_tokens_from,
        }
    }

    /// Says how many acts there are of which kind, names those that the answer names, and how to see the
    /// rest.
    pub(crate) fn warn(&self, session: &Session) {
        self.lines().iter().for_each(|line| session.output.warn(line));
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.acts.len() > 1 && !self.counts.is_empty() {
            let counts = self.counts.iter().map(|(kind, count)| format!("{count} {kind}"));
            let counts = counts.collect::<Vec<_>>().join(", ");
            lines.push(format!("what {} did stays: {counts}", self.by));
        }
        lines.extend(self.acts.iter().map(|ActOnRecord { log_index, kind, subject }| {
            format!("review what they did: {kind} {subject:?}, log index {log_index}")
        }));
        if self.more > 0 {
            let Self { by, more, .. } = self;
            lines.push(format!("and {more} more: countersign show {by} --acts"));
        }
        if self.tokens_from.is_some() {
            let by = self.by;
            lines.push(format!(
                "certificates by older tokens are not counted here: countersign show {by} --acts"
            ));
        }
        lines
    }
}

/// Lists all that somebody did that stays, newest first.
pub(crate) async fn list(
    by: SpiffeId,
    client: &AuthorityClient,
    session: &Session,
) -> Result<(), Error> {
    let mut filter = ActFilter { by, limit: Some(1_000), after: None };
    let mut acts = Vec::new();
    loop {
        let page = client.acts(&filter).await?;
        acts.extend(page.items);
        match page.next {
            Some(next) => filter.after = Some(next),
            None => break,
        }
    }
    if acts.is_empty() && session.output.format == Format::Human {
        session.output.note(format!("{} did nothing that stays", filter.by));
        return Ok(());
    }
    session.output.list(&acts, to_table)
}

fn to_table(acts: &[ActOnRecord]) -> String {
    let row = |act: &ActOnRecord| {
        let ActOnRecord { log_index, kind, subject } = act;
        [log_index.to_string(), kind.clone(), subject.clone()]
    };
    let rows: Vec<[String; 3]> = acts.iter().map(row).collect();
    table::table(["LOG INDEX", "KIND", "SUBJECT"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_said_with_the_command_that_lists_it() {
        let by = SpiffeId::parse("spiffe://pay.example/countersign/operator/bob").unwrap();
        let act = |log_index, kind: &str| ActOnRecord {
            log_index,
            kind: kind.to_owned(),
            subject: "one\n two".to_owned(),
        };
        let acts = [act(4, "operator.create"), act(9, "policy.change")];
        let counts = [("operator.create".to_owned(), 1), ("policy.change".to_owned(), 102)];
        let counts = BTreeMap::from(counts);
        let review =
            Review { by: &by, acts: &acts, counts: &counts, more: 101, tokens_from: Some(9) };
        assert_eq!(
            review.lines(),
            [
                "what spiffe://pay.example/countersign/operator/bob did stays: 1 operator.create, \
                 102 policy.change",
                "review what they did: operator.create \"one\\n two\", log index 4",
                "review what they did: policy.change \"one\\n two\", log index 9",
                "and 101 more: countersign show spiffe://pay.example/countersign/operator/bob --acts",
                "certificates by older tokens are not counted here: countersign show \
                 spiffe://pay.example/countersign/operator/bob --acts",
            ]
        );
        // A CA of before says no more than the acts.
        let review = Review { more: 0, counts: &BTreeMap::new(), tokens_from: None, ..review };
        assert_eq!(review.lines().len(), 2);
    }
}
