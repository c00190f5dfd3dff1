//! The command line: binds the addresses, says so, and ends on SIGTERM or SIGINT.

use clap::Parser;
use crm_sim::Sim;
use crm_sim::server::{Desk, listen};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

const MANUAL: &str = include_str!("manual.txt");

/// A simulator of the CRMs' HTTP APIs with real state.
#[derive(Debug, Parser)]
#[command(version, after_long_help = MANUAL, after_help = "See --help for the admin API.")]
struct Options {
    /// Where Salesforce listens, such as 127.0.0.1:4101; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    salesforce: Option<String>,
    /// Where HubSpot listens
    #[arg(long, value_name = "ADDR")]
    hubspot: Option<String>,
    /// Where Pipedrive listens
    #[arg(long, value_name = "ADDR")]
    pipedrive: Option<String>,
    /// Where Zoho listens
    #[arg(long, value_name = "ADDR")]
    zoho: Option<String>,
    /// Where Dynamics 365 listens
    #[arg(long, value_name = "ADDR")]
    dynamics365: Option<String>,
    /// Where Composio listens, which leads to Salesforce and HubSpot
    #[arg(long, value_name = "ADDR")]
    composio: Option<String>,
    /// Where the admin API listens
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crm-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> std::io::Result<()> {
    // Before the first line of output: whoever reads it may signal at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let sim = Arc::new(Sim::default());
    let mut desks = vec![
        (Desk::Admin, options.admin),
        (Desk::Broker, options.composio),
    ];
    for (name, address) in [
        ("salesforce", options.salesforce),
        ("hubspot", options.hubspot),
        ("pipedrive", options.pipedrive),
        ("zoho", options.zoho),
        ("dynamics365", options.dynamics365),
    ] {
        let vendor = sim.vendor(name).cloned();
        desks.extend(vendor.map(|vendor| (Desk::Vendor(vendor), address)));
    }
    for (desk, address) in desks {
        let Some(address) = address else {
            continue;
        };
        let name = desk.name();
        let bound = listen(sim.clone(), desk, &address).await.map_err(|error| {
            std::io::Error::new(
                error.kind(),
                format!("cannot listen on {address} for {name}: {error}"),
            )
        })?;
        println!("{name} http://{bound}");
    }
    println!("ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
