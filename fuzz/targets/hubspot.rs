#![no_main]

use crm_fuzz::answers;
use crm_provider::hubspot::HubSpot;

libfuzzer_sys::fuzz_target!(|data: &[u8]| answers::check(&HubSpot, data));
