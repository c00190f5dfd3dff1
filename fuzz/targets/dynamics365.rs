#![no_main]

use crm_fuzz::answers;
use crm_provider::dynamics365::Dynamics365;

libfuzzer_sys::fuzz_target!(|data: &[u8]| answers::check(&Dynamics365, data));
