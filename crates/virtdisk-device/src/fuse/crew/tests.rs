//! When threads rest, watch and come back, and when the lead looks out.
//!
//! A unit test, as what it asks is private to the transport; long, so in a file of its own.

use std::thread;

use super::*;

/// Lets the stay of all threads run out.
fn calm(crew: &Crew) {
    crew.wanted.store(0, Ordering::SeqCst);
}

/// Runs `act` while a thread rests; answers whether that thread came back within a second.
fn comes_back(crew: &Crew, act: impl FnOnce()) -> bool {
    thread::scope(|scope| {
        let resting = scope.spawn(|| crew.rest());
        thread::sleep(Duration::from_millis(20));
        assert!(!resting.is_finished(), "it does not rest");
        act();
        let deadline = Instant::now() + Duration::from_secs(1);
        while !resting.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let back = resting.is_finished();
        crew.finish();
        back
    })
}

#[test]
fn a_resting_thread_comes_when_it_is_wanted_and_at_the_end() {
    let crew = Crew::new();
    calm(&crew);
    assert!(comes_back(&crew, || crew.want()));
    let crew = Crew::new();
    calm(&crew);
    assert!(comes_back(&crew, || crew.finish()));
}

#[test]
fn a_resting_thread_comes_when_the_lead_is_stuck() {
    let crew = Crew::new();
    calm(&crew);
    assert!(comes_back(&crew, || {
        let _begun = crew.begin(false);
    }));
}

#[test]
fn looking_in_vain_is_followed_by_ever_longer_abstinence() {
    let (crew, mut own) = (Crew::new(), Lookout::default());
    calm(&crew);
    let mut looks = 0;
    for _ in 0..5000 {
        let mut first = true;
        crew.look_out(&mut own, || {
            looks += u32::from(std::mem::take(&mut first));
            false
        });
    }
    assert!((10..=15).contains(&looks), "{looks}");
    // The first that is found soon ends it.
    own.abstain = 0;
    let mut calls = 0;
    crew.look_out(&mut own, || {
        calls += 1;
        calls == 2
    });
    assert_eq!((own.abstain, own.abstinence), (0, 0));
}

#[test]
fn requests_that_wait_for_the_lead_call_the_others() {
    let (crew, mut own) = (Crew::new(), Lookout::default());
    calm(&crew);
    for _ in 1..WAITING {
        crew.look_out(&mut own, || true);
    }
    assert_eq!(crew.wanted.load(Ordering::SeqCst), 0);
    crew.look_out(&mut own, || true);
    assert_eq!(crew.wanted.load(Ordering::SeqCst), STAY);
    // Now nobody looks out.
    crew.look_out(&mut own, || panic!("it looks"));
}

#[test]
fn overlapping_and_lengthy_requests_call_the_others_and_quick_ones_let_them_go() {
    let crew = Crew::new();
    let calls = |lengthy: bool, overlapping: bool| {
        calm(&crew);
        let _before = overlapping.then(|| crew.begin(false));
        let _begun = crew.begin(lengthy);
        crew.answering.store(0, Ordering::SeqCst);
        crew.wanted.load(Ordering::SeqCst) == STAY
    };
    assert!(!calls(false, false));
    assert!(calls(true, false));
    assert!(calls(false, true));
    crew.want();
    for left in (0..STAY).rev() {
        let mut begun = crew.begin(false);
        // Once it matters, each is timed.
        assert_eq!(begun.at.is_some(), left < STAY / 2);
        begun.at = begun.at.map(|at| at + SLOW);
        crew.end(&begun);
        assert_eq!(crew.wanted.load(Ordering::SeqCst), left);
    }
}

#[test]
fn slow_requests_keep_the_others() {
    let crew = Crew::new();
    crew.want();
    for _ in 0..3 * STAY {
        let mut begun = crew.begin(false);
        begun.at = begun.at.map(|at| at - 2 * SLOW);
        crew.end(&begun);
        assert!(crew.wanted.load(Ordering::SeqCst) >= STAY / 2);
    }
}
