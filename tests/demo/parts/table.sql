-- The application's table: Northwind's facts, and what the application decides itself.
CREATE TABLE customers (
    LIKE northwind INCLUDING ALL,
    credit_limit   numeric(10,2),
    customer_since date,
    tier           text
);
