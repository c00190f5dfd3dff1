#![no_main]

use crm_fuzz::answers;
use crm_provider::zoho::Zoho;

libfuzzer_sys::fuzz_target!(|data: &[u8]| answers::check(&Zoho, data));
