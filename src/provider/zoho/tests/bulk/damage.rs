//! Everything that can go wrong with a job, from no right to jobs to a result that cannot be had.

use super::*;

#[test]
fn where_jobs_are_not_to_be_had_records_go_by_calls() {
    let refused =
        |code: &str| json!({ "code": code, "status": "error", "message": "no", "details": {} });
    for (at, status, code) in [
        ("/org", 401, "OAUTH_SCOPE_MISMATCH"),
        ("/upload", 401, "OAUTH_SCOPE_MISMATCH"),
        ("/upload", 400, "FILE_TOO_LARGE"),
        ("/bulk/v8/write", 400, "MODULE_NOT_AVAILABLE"),
        ("/bulk/v8/write", 403, "FEATURE_NOT_SUPPORTED"),
    ] {
        let job = Job::new("");
        let (result, log) =
            write(
                people(WriteKind::Update, &["1", "2", "3"]),
                |_, request| match line(request).ends_with(at) {
                    true => answer(status, &refused(code)),
                    false => job.answer(request),
                },
            );
        assert_eq!(
            told(&result.unwrap()),
            ["updated 1", "updated 2", "updated 3"]
        );
        assert_eq!(
            log.lines().last().unwrap(),
            "PUT /crm/v8/Contacts",
            "{at} {code}"
        );
    }
    // A host that is not allowed is told without an answer.
    let not_allowed = Failure::connection(ErrorClass::Auth, "url_not_allowed", "no");
    let (result, _) = write(
        people(WriteKind::Update, &["1", "2", "3"]),
        |_, request| match line(request).ends_with("/upload") {
            true => Answer::Lost(not_allowed.clone()),
            false => Job::new("").answer(request).into(),
        },
    );
    assert_eq!(
        told(&result.unwrap()),
        ["updated 1", "updated 2", "updated 3"]
    );
}

#[test]
fn a_job_that_ends_without_a_result_leaves_its_records_to_calls() {
    for state in ["COMPLETED", "FAILED", "SKIPPED"] {
        let job = Job::new("");
        *job.states.borrow_mut() = vec![state];
        let (result, _) = write(people(WriteKind::Update, &["1", "2", "3"]), |_, r| {
            job.answer(r)
        });
        assert_eq!(
            told(&result.unwrap()),
            ["updated 1", "updated 2", "updated 3"]
        );
    }
}

#[test]
fn a_refused_token_and_passing_trouble_before_the_job_are_the_batchs_own() {
    for (at, status, code, class) in [
        ("/org", 401, "INVALID_TOKEN", ErrorClass::Auth),
        ("/upload", 429, "TOO_MANY_REQUESTS", ErrorClass::RateLimited),
        (
            "/bulk/v8/write",
            500,
            "INTERNAL_ERROR",
            ErrorClass::Transient,
        ),
    ] {
        let told = json!({ "code": code, "status": "error", "message": "no", "details": {} });
        let (result, log) =
            write(
                people(WriteKind::Update, &["1", "2", "3"]),
                |_, request| match line(request).ends_with(at) {
                    true => answer(status, &told),
                    false => Job::new("").answer(request),
                },
            );
        assert_eq!(result.unwrap_err().class, class);
        assert!(log.lines().last().unwrap().ends_with(at));
    }
    let lost = Failure::connection(ErrorClass::Transient, "broken", "no answer");
    let (result, _) = write(
        people(WriteKind::Update, &["1", "2", "3"]),
        |_, request| match line(request).ends_with("/bulk/v8/write") {
            true => Answer::Lost(lost.clone()),
            false => Job::new("").answer(request).into(),
        },
    );
    assert_eq!(result.unwrap_err().code, "broken");
}

#[test]
fn trouble_while_a_job_runs_is_waited_out() {
    let job = Job::new("id,STATUS,RECORD_ID,ERRORS\n1,UPDATED,1,\n2,UPDATED,2,\n3,UPDATED,3,\n");
    let mut damage = vec![page(502), empty(429), page(503), empty(200)];
    let (result, log) = write(people(WriteKind::Update, &["1", "2", "3"]), |_, request| {
        let line = line(request);
        match line.contains("write/9") || line.contains(RESULT) {
            true => damage.pop().unwrap_or_else(|| job.answer(request)),
            false => job.answer(request),
        }
    });
    assert_eq!(
        told(&result.unwrap()),
        ["updated 1", "updated 2", "updated 3"]
    );
    assert_eq!(log.waits.len(), 4);
}

#[test]
fn a_job_whose_result_cannot_be_had_is_unknown_or_told_by_calls() {
    let keys = ["1", "2", "3"];
    // For the time being.
    let job = Job::new("");
    let (result, log) = write(people(WriteKind::Update, &keys), |_, request| {
        match line(request).contains("write/9") {
            true => page(502),
            false => job.answer(request),
        }
    });
    assert_eq!(result.unwrap_err().class, ErrorClass::Transient);
    assert_eq!(log.waits.len(), 30);
    // For good: the host is none that may see the token.
    let job = Job::new("x");
    let foreign = Failure::record(ErrorClass::Internal, "foreign_host", "no");
    let (result, _) = write(people(WriteKind::Update, &keys), |_, request| {
        match line(request).contains(RESULT) {
            true => Answer::Lost(foreign.clone()),
            false => job.answer(request).into(),
        }
    });
    assert_eq!(
        told(&result.unwrap()),
        ["updated 1", "updated 2", "updated 3"]
    );
    // The job is gone, of which no record may be blamed.
    let job = Job::new("");
    let gone =
        json!({ "code": "RESOURCE_NOT_FOUND", "status": "error", "message": "no", "details": {} });
    let (result, _) = write(people(WriteKind::Update, &keys), |_, request| {
        match line(request).contains("write/9") {
            true => answer(404, &gone),
            false => job.answer(request),
        }
    });
    let failure = result.unwrap_err();
    assert_eq!(
        (failure.class, failure.scope),
        (ErrorClass::Transient, Scope::Records)
    );
}
