//! Whoever is about the same thing as another waits until that one is done.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// Whose turn it is with each thing, in this process.
#[derive(Debug)]
pub(crate) struct OneAtATime<K>(Mutex<Waiting<K>>);

#[derive(Debug)]
struct Waiting<K> {
    turns: HashMap<K, Weak<tokio::sync::Mutex<()>>>,
    /// With so many, those that nobody waits for are forgotten.
    forget_at: usize,
}

/// A turn; the next begins when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(#[expect(dead_code, reason = "it is held")] OwnedMutexGuard<()>);

impl<K> Default for OneAtATime<K> {
    fn default() -> Self {
        Self(Mutex::new(Waiting { turns: HashMap::new(), forget_at: KEPT }))
    }
}

impl<K: Copy + Eq + Hash> OneAtATime<K> {
    /// Waits until nobody else is about it.
    pub(crate) async fn turn(&self, with: K) -> Turn {
        let mutex = {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Waiting { turns, forget_at } = &mut *waiting;
            if turns.len() >= *forget_at {
                turns.retain(|_, turn| turn.strong_count() > 0);
                *forget_at = KEPT.max(2 * turns.len());
            }
            let begun = turns.get(&with).and_then(Weak::upgrade);
            begun.unwrap_or_else(|| {
                let mutex = Arc::default();
                turns.insert(with, Arc::downgrade(&mutex));
                mutex
            })
        };
        Turn(mutex.lock_owned().await)
    }
}

/// Fewer are kept, though nobody waits for them.
const KEPT: usize = 1_000;
