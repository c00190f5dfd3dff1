#![no_main]

use crm_fuzz::answers;
use crm_provider::salesforce::Salesforce;

libfuzzer_sys::fuzz_target!(|data: &[u8]| answers::check(&Salesforce, data));
