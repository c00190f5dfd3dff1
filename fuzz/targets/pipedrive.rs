#![no_main]

use crm_fuzz::answers;
use crm_provider::pipedrive::Pipedrive;

libfuzzer_sys::fuzz_target!(|data: &[u8]| answers::check(&Pipedrive, data));
