"""What the expert says, one wording for each situation.

Few words and always the same ones: a small model learns what to say from them, and where to
copy values into them. Values are copied from the customer or from tool results, never made up.
"""

from __future__ import annotations

REPLIES: dict[str, str] = {
    # Talk
    "greeting": "Hello! How can I help you today?",
    "closing": "You are welcome. Have a good trip!",
    "nothing_done": "All right, I did not change anything.",
    "not_understood": (
        "Sorry, I did not understand that. I can look up, book, change or cancel flights. "
        "What do you need?"
    ),
    "sorry": "Sorry, I did not understand that.",
    "english_only": (
        "Sorry, I understand only English. I can look up, book, change or cancel flights. "
        "What do you need?"
    ),
    "next": "Next is your other request.",
    "off_topic": "I cannot help with that. I can look up, book, change or cancel flights.",
    "injection": "I cannot do that. I have to follow the airline's rules for every customer.",
    "no_exception": "I am sorry, I cannot make an exception. The rule is the same for everyone.",
    "what_i_do": (
        "I can look up, book, change and cancel flights for you, and answer questions about our "
        "rules."
    ),
    "who_i_am": "I am the automated assistant of the airline's service desk.",
    "unserved": "I am sorry, we do not fly to {place}.",
    "price_people": "For {people} passengers that is ${total}.",
    "no_user_id": (
        "I need the user ID to go on. Can you find it, or would you like a human agent?"
    ),
    "offline": (
        "This needs a specialist check that I should not rush. "
        "Would you like the details that I can look up, or a human agent?"
    ),
    # Questions
    "ask_user_id": "Could you give me your user ID, please?",
    "ask_reservation": "Could you give me the reservation ID, please?",
    "unknown_user": "I could not find the user {user_id}. Could you check the user ID, please?",
    "unknown_reservation": (
        "I could not find reservation {reservation_id}. Could you check the reservation ID, please?"
    ),
    "not_yours": (
        "Reservation {reservation_id} does not belong to this user. "
        "Could you check the user ID, please?"
    ),
    "which_reservation": "I see {ids} in your profile. Which reservation do you mean?",
    "no_reservations": "I see no reservations in your profile.",
    "ask_route": "From which city to which city would you like to fly?",
    "ask_origin": "From where would you like to fly?",
    "ask_destination": "Where to would you like to fly?",
    "ask_date": "On which date would you like to fly?",
    "ask_exact_date": "I need an exact date. On which date would you like to fly?",
    "ask_new_date": "To which date would you like to move the flight?",
    "ask_flight_type": "Is it one way or round trip?",
    "ask_return_date": "What is the return date?",
    "ask_flight_type_and_cabin": (
        "Is it one way or round trip, and in which cabin: basic economy, economy or business?"
    ),
    "ask_bags_and_insurance": (
        "How many checked bags would you like, and travel insurance for $30 per passenger?"
    ),
    "ask_cabin": "Which cabin would you like: basic economy, economy or business?",
    "ask_passengers": (
        "Who are the passengers? I need first name, last name and date of birth of each."
    ),
    "ask_bags": "How many checked bags would you like in total?",
    "ask_more_bags": "How many bags would you like to add?",
    "ask_insurance": "Would you like travel insurance for $30 per passenger?",
    "ask_payment": "How would you like to pay? In your profile: {ways}.",
    "ask_change_payment": "Which payment method should I use? In your profile: {ways}.",
    "ask_new_passenger": (
        "What is the new passenger name? I need first name, last name and date of birth."
    ),
    "ask_reason": "What is the reason for the cancellation?",
    # Look-ups
    "overview": (
        "Reservation {reservation_id} is {flight_type} in {cabin} from {origin} to {destination}: "
        "{flights}. Passengers: {passengers}. Bags: {total_baggages}. Insurance: {insurance}."
    ),
    "overview_cancelled": (
        "Reservation {reservation_id} from {origin} to {destination} is cancelled."
    ),
    "flights": "Flights of {reservation_id}: {flights}.",
    "passengers": "Passengers of {reservation_id}: {passengers}.",
    "bags": (
        "Checked bags on {reservation_id}: {total_baggages}, of these paid: {nonfree_baggages}."
    ),
    "payment": "Paid for {reservation_id}: {payments}.",
    "insured": "Yes, {reservation_id} has travel insurance.",
    "not_insured": "No, {reservation_id} has no travel insurance.",
    "cabin": "Reservation {reservation_id} is in {cabin}.",
    "membership": "You are a {membership} member.",
    "payment_methods": "In your profile: {ways}.",
    "reservations": "Reservations in your profile: {ids}.",
    "email": "Your email is {email}.",
    "saved_passengers": "Saved passengers: {passengers}.",
    "no_saved_passengers": "You have no saved passengers.",
    "dob": "Your date of birth in the profile is {dob}.",
    # Searches
    "found_flights": "From {origin} to {destination} on {date} in {cabin}: {flights}.",
    "found_onestop": (
        "There is no direct flight from {origin} to {destination} on {date}. "
        "With one stop in {cabin}: {pairs}."
    ),
    "found_nothing": "I found no flight from {origin} to {destination} on {date} in {cabin}.",
    "cheapest": "The cheapest {cabin} flight on {date} is {flight}.",
    "earliest": "The earliest flight on {date} is {flight}.",
    "offer_flights": "On {date} in {cabin}: {flights}. Which flight would you like?",
    "offer_onestop": (
        "There is no direct flight on {date}. With one stop in {cabin}: {pairs}. "
        "Which flight would you like?"
    ),
    "offer_return": "For the return on {date} in {cabin}: {flights}. Which flight would you like?",
    "airports": "We fly to {cities}.",
    "airport_code": "The airport code of {city} is {code}.",
    # Booking and changing
    "confirm_booking": (
        "For {user_id}: {flight_type} from {origin} to {destination} in {cabin}, {flights}, "
        "passengers {passengers}, bags {bags}, paid bags {paid_bags}, insurance {insurance}, "
        "${total} {payment}. Shall I book it (yes/no)?"
    ),
    "booked": "Your booking is done. The reservation ID is {reservation_id}.",
    "payment_refused": "The payment did not work: {error}. How else would you like to pay?",
    "confirm_flights": (
        "I will change {reservation_id} to {flights} in {cabin}. "
        "The {direction} is ${amount} with {payment}. Shall I go ahead (yes/no)?"
    ),
    "confirm_cabin": (
        "I will change {reservation_id} to {cabin}: {flights}. "
        "The {direction} is ${amount} with {payment}. Shall I go ahead (yes/no)?"
    ),
    "changed": "Reservation {reservation_id} is changed.",
    "no_seats": "I cannot offer {cabin} on {reservation_id}, there are no seats.",
    "confirm_bags": (
        "Checked bags on {reservation_id} will be {total}, of these paid: {nonfree}. "
        "The price is ${amount} with {payment}. Shall I go ahead (yes/no)?"
    ),
    "bags_added": "Done. Checked bags on {reservation_id}: {total}.",
    "confirm_passengers": (
        "The passengers of {reservation_id} will be {passengers}. Shall I go ahead (yes/no)?"
    ),
    "passengers_changed": "Done. Passengers of {reservation_id}: {passengers}.",
    "confirm_cancel": "I will cancel {reservation_id}. Shall I go ahead (yes/no)?",
    "cancelled": (
        "Reservation {reservation_id} is cancelled. The refund goes to the original payment "
        "methods in 5 to 7 business days."
    ),
    "already_cancelled": "Reservation {reservation_id} is cancelled already.",
    "offer_certificate": (
        "I am sorry for the trouble. I can send a certificate of ${amount} to {user_id}. "
        "Would you like me to do that (yes/no)?"
    ),
    "certificate_sent": "I sent you certificate {certificate_id} of ${amount}.",
    # Refusals, each with its rule
    "refuse_not_yours": "I cannot help with {reservation_id}, it belongs to another user.",
    "refuse_basic_change": "I cannot change the flights of {reservation_id}: it is basic economy.",
    "refuse_cancel": (
        "I cannot cancel {reservation_id}: it is {cabin}, booked more than 24 hours ago, "
        "and the airline did not cancel it. Insurance: {insurance}."
    ),
    "refuse_cancel_reason": (
        "I cannot cancel {reservation_id}: the insurance covers only health and weather reasons."
    ),
    "refuse_compensation": (
        "I am sorry, I cannot offer compensation: you are a regular member without insurance in "
        "{cabin}."
    ),
    "refuse_no_disturbance": (
        "I am sorry, I cannot offer compensation: no flight of {reservation_id} was cancelled."
    ),
    "refuse_delay": (
        "I am sorry for the delay. I cannot offer compensation unless the reservation is changed "
        "or cancelled."
    ),
    "refuse_insurance": "I cannot add insurance after the booking was made.",
    "refuse_remove_bags": "I cannot remove bags, they can only be added.",
    "refuse_count": (
        "I cannot change the number of passengers, and a human agent cannot do it either."
    ),
    "refuse_route": "I cannot change the origin or the destination of a reservation.",
    "refuse_discount": "I cannot give discounts, upgrades or waivers.",
    # Questions about the rules
    "faq_bags": "Free checked bags per passenger for a {membership} member in {cabin}: {n}.",
    "faq_bag_fee": "Each extra checked bag costs $50.",
    "faq_insurance": (
        "Travel insurance costs $30 per passenger and gives a full refund if you cancel for health "
        "or weather reasons."
    ),
    "faq_refund_time": "Refunds take 5 to 7 business days.",
    "faq_max_passengers": "One reservation can have at most five passengers.",
    "faq_basic_change": (
        "The flights of a basic economy reservation are fixed. Its cabin can be changed."
    ),
    "faq_basic_cancel": (
        "Basic economy can be cancelled within 24 hours of booking, if the airline cancelled the "
        "flight, or with insurance for health or weather reasons."
    ),
    "faq_certificates": (
        "One reservation takes at most one certificate, one credit card and three gift cards."
    ),
    "faq_cancel_rules": (
        "You can cancel within 24 hours of booking, if the airline cancelled the flight, in "
        "business, or with insurance for health or weather reasons."
    ),
    # What the larger model says where a lesson goes on after a hard turn
    "larger_refund": (
        "I checked the fare, the insurance, the booking time and the reason together. A refund is "
        "paid within 24 hours of booking, in business, or with insurance for health or weather."
    ),
    "larger_total": (
        "I looked at every reservation in your profile; each has its own price, so let us take "
        "them one at a time."
    ),
    "larger_plan": "I compared the days; I would need your exact dates to book one of them.",
    "larger_many": (
        "I worked through the changes. Each of them is possible on its own terms; tell me which "
        "one you decide on."
    ),
    "larger_split": "I split the payment and everything is prepared; nothing is charged yet.",
    "larger_choice": (
        "I went through your reservations. Please come back with the ID of the one to handle."
    ),
}
